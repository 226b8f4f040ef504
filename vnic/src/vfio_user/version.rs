//! Version and capability negotiation: the first message of a connection.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sharedmem::MAX_MAPPINGS;

use super::message::{Fields, MAX_DATA, MAX_FDS, Reply};

/// The protocol is version 0.0; a VMM that proposes 0.n is answered 0.0, the n it must support as well.
const MAJOR: u16 = 0;
const MINOR: u16 = 0;

/// Capabilities either side may name. What a VMM proposes beyond them is not for us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Capabilities {
    max_msg_fds: Option<u64>,
    max_data_xfer_size: Option<u64>,
    max_dma_maps: Option<u64>,
    pgsizes: Option<u64>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct VersionData {
    #[serde(default)]
    capabilities: Capabilities,
}

/// Answers a VERSION message.
///
/// No `write_multiple` (its message is an optimisation nobody needs here), no migration.
///
/// # Errors
/// `EINVAL` for a short message, text that does not end in NUL or is not JSON of the right shape;
/// `EOPNOTSUPP` for another major version.
pub fn negotiate(payload: &[u8]) -> Result<Reply, Errno> {
    let mut fields = Fields(payload);
    let (major, _minor) = (fields.u16()?, fields.u16()?);
    let text = fields.rest();
    if !text.is_empty() {
        let text = text.strip_suffix(&[0]).ok_or(Errno::INVAL)?;
        // Parsed for its shape: a VMM's limits bind what we send it, and that is one descriptor and less
        // data than it asked for.
        let _proposed: VersionData = serde_json::from_slice(text).map_err(|_| Errno::INVAL)?;
    }
    if major != MAJOR {
        return Err(Errno::OPNOTSUPP);
    }
    let ours = VersionData {
        capabilities: Capabilities {
            max_msg_fds: Some(MAX_FDS as u64),
            max_data_xfer_size: Some(MAX_DATA as u64),
            max_dma_maps: Some(MAX_MAPPINGS as u64),
            pgsizes: Some(4096),
        },
    };
    let mut out = MAJOR.to_ne_bytes().to_vec();
    out.extend_from_slice(&MINOR.to_ne_bytes());
    out.extend(serde_json::to_vec(&ours).map_err(|_| Errno::NOMEM)?);
    out.push(0);
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(major: u16, text: &[u8]) -> Result<String, Errno> {
        let mut payload = major.to_ne_bytes().to_vec();
        payload.extend_from_slice(&1u16.to_ne_bytes());
        payload.extend_from_slice(text);
        let reply = negotiate(&payload)?.payload;
        assert_eq!((&reply[..4], reply.last()), (&[0u8; 4][..], Some(&0)));
        Ok(String::from_utf8(reply[4..reply.len() - 1].to_vec()).unwrap())
    }

    #[test]
    fn proposals() {
        let ours =
            r#"{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":65536,"max_dma_maps":4096,"pgsizes":4096}}"#;
        let qemu = br#"{"capabilities": {"migration": {"pgsize": 4096, "max_bitmap_size": 8388608}, "max_msg_fds": 8, "write_multiple": true, "pgsizes": 4096}}"#;
        let qemu = [&qemu[..], &[0]].concat();
        for text in [&b""[..], b"{}\0", b"{\"capabilities\":{}}\0", &qemu] {
            assert_eq!(ask(0, text).unwrap(), ours);
        }
        assert_eq!(ask(1, b"").unwrap_err(), Errno::OPNOTSUPP);
        for text in [
            &b"{}"[..],
            b"\0",
            b"[]x\0",
            b"{\"capabilities\":7}\0",
            b"{\"capabilities\":{\"pgsizes\":\"x\"}}\0",
            b"\xff\0",
        ] {
            assert_eq!(ask(0, text).unwrap_err(), Errno::INVAL, "{text:?}");
        }
        assert_eq!(negotiate(&[0, 0, 0]).unwrap_err(), Errno::INVAL);
        let deep = [vec![b'['; 5000], vec![0]].concat();
        assert_eq!(ask(0, &deep).unwrap_err(), Errno::INVAL);
    }
}
