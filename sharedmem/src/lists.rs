//! Filling a list in a loop: where the next item goes and how many there are stays in registers. It shares no memory, and stands
//! here because unsafe code does.

use arrayvec::ArrayVec;

/// Adds to `list` what `make` makes of what `read` finds in each of `items`, as long as there is room, `read` finds something
/// and `keep`, which sees it in its place, does not refuse it; returns how many there are.
///
/// As [`ArrayVec::try_push`] for each, but that loads, compares and stores the length every time, and [`ArrayVec::extend`] is not
/// inlined, so that items go through memory twice.
#[inline(always)]
pub fn extend_while<I, R, T: Copy, const N: usize>(
    list: &mut ArrayVec<T, N>,
    items: &[I],
    mut read: impl FnMut(&I) -> Option<R>,
    mut make: impl FnMut(R) -> T,
    mut keep: impl FnMut(&T) -> bool,
) -> usize {
    let (before, room) = (list.len(), list.remaining_capacity());
    let mut count = 0;
    for item in items.get(..room).unwrap_or(items) {
        let Some(found) = read(item) else { break };
        // SAFETY: before + count is below the list's capacity, for no more items are looked at than there is room. What is
        // written there needs no drop, and is initialised from here on.
        let place = unsafe {
            let place = list.as_mut_ptr().add(before + count);
            place.write(make(found));
            &*place
        };
        if !keep(place) {
            break;
        }
        count += 1;
    }
    // SAFETY: so many are initialised, and it is no more than the capacity.
    unsafe { list.set_len(before + count) };
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_the_room_the_items_and_either_refusal() {
        let filled = |items: &[u8], last: u8, refused: u8| {
            let mut list = ArrayVec::<u8, 4>::from_iter([9]);
            let count =
                extend_while(&mut list, items, |n| (*n <= last).then_some(*n), |n| n + 1, |made| *made != refused);
            assert_eq!(list.len(), 1 + count);
            list.to_vec()
        };
        assert_eq!(filled(&[1, 2], 9, 0), [9, 2, 3]);
        assert_eq!(filled(&[1, 2, 3, 4], 9, 0), [9, 2, 3, 4]);
        assert_eq!(filled(&[1, 2, 3], 1, 0), [9, 2]);
        assert_eq!(filled(&[1, 2, 3], 9, 3), [9, 2]);
        assert_eq!(filled(&[], 9, 0), [9]);
    }
}
