//! The highest rate without loss (RFC 2544, 26.1): bisection.

use anyhow::Result;

use super::Outcome;

/// Looks for the highest rate, in frames per second, at which `trial` loses at most `tolerance` of its frames. Starts
/// from `highest` and ends when the answer is known to `precision` (a share of it). Returns rate and outcome of the
/// best trial; `None` when even the lowest loses.
///
/// # Errors
/// What a trial says.
pub fn search(
    highest: f64,
    tolerance: f64,
    precision: f64,
    mut trial: impl FnMut(f64) -> Result<Outcome>,
) -> Result<Option<(f64, Outcome)>> {
    let (mut low, mut high) = (0.0, highest);
    let mut best = None;
    let mut rate = highest;
    while high - low > precision * high {
        let outcome = trial(rate)?;
        let lost = outcome.lost() as f64 / outcome.sent.max(1) as f64;
        if lost <= tolerance {
            best = Some((rate, outcome));
            low = rate;
            if rate >= highest {
                break;
            }
        } else {
            high = rate;
        }
        rate = (low + high) / 2.0;
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_capacity_of_a_switch() {
        let capacity = 7_300_000.0;
        let trial = |rate: f64| {
            let received = rate.min(capacity) as u64;
            Ok(Outcome { sent: rate as u64, received, bytes: 0, seconds: 1.0, on_time: received })
        };
        let (rate, outcome) = search(20e6, 0.0, 0.01, trial).unwrap().unwrap();
        assert!((0.98 * capacity..=capacity).contains(&rate), "{rate}");
        assert_eq!(outcome.lost(), 0);
        assert_eq!(search(5e6, 0.0, 0.01, trial).unwrap().unwrap().0, 5e6, "all that was offered");
        let broken = |_| Ok(Outcome { sent: 10, seconds: 1.0, ..Outcome::default() });
        assert!(search(5e6, 0.0, 0.01, broken).unwrap().is_none());
    }
}
