//! Sets of VLAN identifiers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use wire::VID_MAX;

/// A set of VLAN identifiers 0..=4094, where 0 stands for untagged frames. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Arc<[u64; 64]>);

/// What is wrong with the text of a VLAN set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanSetError {
    /// Not a number, or a range that is not `low-high`.
    Syntax(String),
    /// A number beyond 4094.
    OutOfRange(String),
}

impl fmt::Display for VlanSetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VlanSetError::Syntax(part) => write!(f, "\"{part}\" is not a VLAN or a range such as 20-29"),
            VlanSetError::OutOfRange(part) => write!(f, "VLAN {part} is outside 0 to {VID_MAX}"),
        }
    }
}

impl std::error::Error for VlanSetError {}

impl VlanSet {
    /// Every VLAN, 0..=4094: what ESX calls 4095.
    pub fn all() -> VlanSet {
        let mut bits = [u64::MAX; 64];
        bits[63] = u64::MAX >> 1;
        VlanSet(Arc::new(bits))
    }

    /// True when `vid` is in the set.
    #[inline]
    pub fn contains(&self, vid: u16) -> bool {
        self.0.get(usize::from(vid >> 6)).is_some_and(|w| w >> (vid & 63) & 1 == 1)
    }

    /// The identifiers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=VID_MAX).filter(|v| self.contains(*v))
    }
}

impl FromStr for VlanSet {
    type Err = VlanSetError;

    /// Reads a list such as `10,20-29`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bits = [0u64; 64];
        for part in text.split(',').map(str::trim) {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low, part)?, number(high, part)?);
            if low > high {
                return Err(VlanSetError::Syntax(part.to_owned()));
            }
            for vid in low..=high {
                bits[usize::from(vid >> 6)] |= 1 << (vid & 63);
            }
        }
        Ok(VlanSet(Arc::new(bits)))
    }
}

fn number(text: &str, part: &str) -> Result<u16, VlanSetError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(VlanSetError::Syntax(part.to_owned()));
    }
    match text.parse::<u16>() {
        Ok(vid) if vid <= VID_MAX => Ok(vid),
        _ => Err(VlanSetError::OutOfRange(text.to_owned())),
    }
}

impl fmt::Display for VlanSet {
    /// Writes the shortest list of ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut vids = self.iter().peekable();
        let mut first = true;
        while let Some(low) = vids.next() {
            let mut high = low;
            while vids.peek() == Some(&(high + 1)) {
                high += 1;
                vids.next();
            }
            let comma = if first { "" } else { "," };
            first = false;
            match high - low {
                0 => write!(f, "{comma}{low}")?,
                _ => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VlanSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        for text in ["10,20-29", "0-4094", "0", "1,3,5-7"] {
            assert_eq!(text.parse::<VlanSet>().unwrap().to_string(), text);
        }
        assert_eq!(VlanSet::all().to_string(), "0-4094");
        assert_eq!(VlanSet::all(), "0-4094".parse().unwrap());
    }

    #[test]
    fn bad_text_is_refused() {
        for text in ["", "a", "5-", "9-3", "1,,2", "-1"] {
            assert!(matches!(text.parse::<VlanSet>(), Err(VlanSetError::Syntax(_))), "{text}");
        }
        for text in ["4095", "1-5000", "70000"] {
            assert!(matches!(text.parse::<VlanSet>(), Err(VlanSetError::OutOfRange(_))), "{text}");
        }
    }
}
