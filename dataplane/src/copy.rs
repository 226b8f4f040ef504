//! The one copy: from a frame's pieces to the pieces of its room.

use sharedmem::Slice;
use wire::MIN_FRAME;
use wire::checksum::Sum;

/// Writes through a list of pieces in order.
pub(crate) struct Cursor<'r, 'd> {
    /// What is left of the room; its first piece is being written.
    pub(crate) room: &'r [Slice<'d>],
    /// Bytes of that piece that are.
    pub(crate) at: usize,
}

impl Cursor<'_, '_> {
    /// The unwritten rest of the current piece, at most `want` bytes.
    #[inline]
    fn rest(&mut self, want: usize) -> Option<Slice<'_>> {
        loop {
            let piece = self.room.first()?;
            let left = piece.len() - self.at;
            if left > 0 {
                return piece.sub(self.at, left.min(want));
            }
            self.room = &self.room[1..];
            self.at = 0;
        }
    }

    /// Writes `data`; false when there is no room for it.
    pub(crate) fn put(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let Some(to) = self.rest(data.len()) else { return false };
            let n = to.len();
            if !to.write_at(0, &data[..n]) {
                return false;
            }
            self.at += n;
            data = &data[n..];
        }
        true
    }

    /// Writes zeros up to `min` bytes, `written` being there.
    pub(crate) fn pad(&mut self, min: usize, written: usize) -> bool {
        written >= min || self.put(&[0; MIN_FRAME][..min - written])
    }

    /// Copies `len` bytes of `from`, from byte `skip` on; false when either side has not so many.
    #[inline]
    pub(crate) fn copy_from(&mut self, from: &[Slice<'_>], skip: usize, len: usize) -> bool {
        self.each(from, skip, len, |from, to| from.copy_to(to))
    }

    /// The same, and sums them.
    pub(crate) fn copy_from_sum(&mut self, from: &[Slice<'_>], skip: usize, len: usize, sum: &mut Sum) -> bool {
        self.each(from, skip, len, |from, to| {
            let (n, part) = from.copy_to_sum(to);
            sum.add_folded(part, n);
            n
        })
    }

    #[inline]
    fn each(
        &mut self,
        from: &[Slice<'_>],
        mut skip: usize,
        mut len: usize,
        mut copy: impl FnMut(&Slice<'_>, &Slice<'_>) -> usize,
    ) -> bool {
        for piece in from {
            if len == 0 {
                break;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let mut at = skip;
            skip = 0;
            while at < piece.len() && len > 0 {
                let want = (piece.len() - at).min(len);
                let Some(to) = self.rest(want) else { return false };
                let Some(part) = piece.sub(at, to.len()) else { return false };
                let n = copy(&part, &to);
                if n == 0 {
                    return false;
                }
                self.at += n;
                at += n;
                len -= n;
            }
        }
        len == 0
    }
}

/// Writes `data` at offset `at` of the frame that lies in `room`.
pub(crate) fn put_at(room: &[Slice<'_>], mut at: usize, data: &[u8]) -> bool {
    let mut data = data;
    for piece in room {
        if data.is_empty() {
            break;
        }
        if at >= piece.len() {
            at -= piece.len();
            continue;
        }
        let n = data.len().min(piece.len() - at);
        if !piece.write_at(at, &data[..n]) {
            return false;
        }
        data = &data[n..];
        at = 0;
    }
    data.is_empty()
}
