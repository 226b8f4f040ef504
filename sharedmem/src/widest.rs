//! Code made twice: for every x86-64, and for those with wide instructions. It stands here because calling what only some
//! processors can do is unsafe.

/// Work for [`widest`].
pub trait Work {
    /// What comes of it.
    type Outcome;

    /// Does it. To be marked `#[inline(always)]`, and likewise what it calls: what is not inlined is made without wide
    /// instructions.
    fn run(self) -> Self::Outcome;
}

/// Items from which on the call is worth its cost: a single frame is through sooner without.
pub(crate) const FEW: usize = 4;

/// Does `work`, which is on so many items, made with AVX2 where the processor has it, which is found out at run time: copies of
/// fixed size become moves of 32 bytes, loops over numbers take eight at a time.
#[inline(always)]
pub fn widest<W: Work>(items: usize, work: W) -> W::Outcome {
    #[cfg(target_arch = "x86_64")]
    if items >= FEW && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { with_avx2(work) };
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<W: Work>(work: W) -> W::Outcome {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::{Work, widest};

    struct Sum<'a>(&'a [u32]);

    impl Work for Sum<'_> {
        type Outcome = u32;

        #[inline(always)]
        fn run(self) -> u32 {
            self.0.iter().sum()
        }
    }

    #[test]
    fn work_comes_to_the_same_either_way() {
        let numbers: Vec<u32> = (0..1000).collect();
        assert_eq!((widest(numbers.len(), Sum(&numbers)), Sum(&numbers).run()), (499_500, 499_500));
    }
}
