//! A frame being made: its tag taken out, its offload request checked and put into one shape.

use wire::checksum::{pseudo_header, sum_be};
use wire::ip::Transport;
use wire::{ETH_HEADER, TAG_LEN, Tag, be16};

use crate::emit::MAX_SEGMENTS;
use crate::{Csum, DropReason, Gso, GsoKind, HEAD_MAX, MAX_FRAME, Offload};

/// Takes the tag out of a head of which `head_len` bytes were read; zeros follow what is left.
pub(crate) fn cut_tag(head: &mut [u8], head_len: usize) -> Result<Tag, DropReason> {
    if head_len < ETH_HEADER + TAG_LEN {
        return Err(DropReason::Runt);
    }
    let tci = be16(head, ETH_HEADER).ok_or(DropReason::Runt)?;
    head.copy_within(16..head_len, 12);
    head[head_len - TAG_LEN..head_len].fill(0);
    Ok(Tag(tci))
}

/// A frame being made.
pub(crate) struct Draft<'h> {
    /// The bytes read ahead.
    pub(crate) head: &'h mut [u8; HEAD_MAX],
    /// How many there are.
    pub(crate) head_len: usize,
    /// Length of the frame.
    pub(crate) len: usize,
    /// Its tag, once it is out of it.
    pub(crate) tag: Option<Tag>,
    /// What is asked for it.
    pub(crate) offload: Offload,
}

impl Draft<'_> {
    /// Takes the tag out of it, and moves the request's offsets.
    pub(crate) fn cut_tag(&mut self) -> Result<(), DropReason> {
        self.tag = Some(cut_tag(self.head, self.head_len)?);
        self.head_len -= TAG_LEN;
        self.len -= TAG_LEN;
        let shift = |offset: u16| offset.checked_sub(TAG_LEN as u16).ok_or(DropReason::BadOffload);
        if let Csum::Fill { start, at } = self.offload.csum {
            self.offload.csum = Csum::Fill { start: shift(start)?, at: shift(at)? };
        }
        if let Some(gso) = &mut self.offload.gso {
            gso.header = shift(gso.header)?;
        }
        Ok(())
    }

    /// Checks that an offload request fits the frame, and makes a needless one none.
    pub(crate) fn check_offload(&mut self) -> Result<(), DropReason> {
        if self.len > MAX_FRAME {
            return Err(DropReason::Oversize);
        }
        if let Some(gso) = self.offload.gso {
            let head = &self.head[..self.head_len];
            let t = Transport::parse(head).ok_or(DropReason::BadOffload)?;
            let header = usize::from(gso.header);
            let fits = t.protocol == gso.kind.protocol()
                && t.l4_len > 0
                && t.payload() == header
                && header <= self.head_len
                && header <= self.len;
            let fits = fits && (gso.kind == GsoKind::Tcp || are_datagrams(head, &t, self.len));
            if !fits || gso.mss == 0 || (self.len - header).div_ceil(usize::from(gso.mss)) > MAX_SEGMENTS {
                return Err(DropReason::BadOffload);
            }
            self.offload.csum = Csum::Fill { start: t.l4 as u16, at: t.l4 as u16 + gso.kind.sum_at() };
            self.normalise_gso(gso, &t)?;
            if self.len - header <= usize::from(gso.mss) {
                self.offload.gso = None;
            }
        }
        if let Csum::Fill { start, at } = self.offload.csum {
            let (start, at) = (usize::from(start), usize::from(at));
            // With a tag inline the offsets must still fit their 16 bits.
            let tagged = at + TAG_LEN <= usize::from(u16::MAX);
            if start < ETH_HEADER || at < start || at + 2 > self.len || !tagged {
                return Err(DropReason::BadOffload);
            }
        }
        Ok(())
    }

    /// Writes the lengths and sums of a segmentation request into the head as the largest single packet
    /// would have them. Senders differ here (vmxnet3 leaves the length out of the pseudo-header sum and
    /// the IPv4 header sum zero, virtio has both), receivers and [`crate::Plan`] need not.
    fn normalise_gso(&mut self, gso: Gso, t: &Transport) -> Result<(), DropReason> {
        let l4_total = self.len - t.l4;
        let head = &mut self.head[..self.head_len];
        let (at, length) = if t.v6 { (t.l3 + 4, self.len - t.l3 - 40) } else { (t.l3 + 2, self.len - t.l3) };
        let length = u16::try_from(length).map_err(|_| DropReason::Oversize)?;
        head[at..at + 2].copy_from_slice(&length.to_be_bytes());
        if !t.v6 {
            head[t.l3 + 10..t.l3 + 12].fill(0);
            let sum = !sum_be(&head[t.l3..t.l4]);
            head[t.l3 + 10..t.l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let pseudo = pseudo_header(t.addresses(head), gso.kind.protocol(), l4_total as u32).folded();
        let sum_at = t.l4 + usize::from(gso.kind.sum_at());
        head[sum_at..sum_at + 2].copy_from_slice(&pseudo.to_be_bytes());
        Ok(())
    }
}

/// True when UDP datagrams under one set of headers can be told apart again: the UDP length is that of the whole, the
/// packet is no fragment, and over IPv6 nothing stands between the two headers, where a routing header would change
/// what the checksum covers.
fn are_datagrams(head: &[u8], t: &Transport, len: usize) -> bool {
    const MORE_FRAGMENTS: u16 = 0x2000;
    let whole = be16(head, t.l4 + 4).is_some_and(|length| usize::from(length) == len - t.l4);
    let bare = match t.v6 {
        true => t.l4 == t.l3 + 40,
        false => be16(head, t.l3 + 6).is_some_and(|flags| flags & MORE_FRAGMENTS == 0),
    };
    whole && bare
}
