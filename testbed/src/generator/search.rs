//! The highest rate without loss (RFC 2544, 26.1): bisection.

use anyhow::Result;

use super::Outcome;

/// The share of what was due that must have been sent.
const ENOUGH: f64 = 0.98;
/// Below so many frames per second nothing is looked for.
const LOWEST: f64 = 1000.0;

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
    while high - low > precision * high && rate >= LOWEST {
        let outcome = trial(rate)?;
        let lost = outcome.lost() as f64 / outcome.sent.max(1) as f64;
        // A port that takes fewer than it is offered cannot do the rate, though it loses none.
        let offered = rate * outcome.seconds * ENOUGH;
        if lost <= tolerance && outcome.sent as f64 >= offered {
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
            Ok(Outcome { sent: rate as u64, received, seconds: 1.0, on_time: received, ..Outcome::default() })
        };
        let (rate, outcome) = search(20e6, 0.0, 0.01, trial).unwrap().unwrap();
        assert!((0.98 * capacity..=capacity).contains(&rate), "{rate}");
        assert_eq!(outcome.lost(), 0);
        assert_eq!(search(5e6, 0.0, 0.01, trial).unwrap().unwrap().0, 5e6, "all that was offered");
        let (rate, _) = search(20e6, 0.0, 0.001, trial).unwrap().unwrap();
        assert!((0.998 * capacity..=capacity).contains(&rate), "to a finer precision: {rate}");
        let slow = |rate: f64| {
            let sent = rate.min(capacity) as u64;
            Ok(Outcome { sent, received: sent, seconds: 1.0, on_time: sent, ..Outcome::default() })
        };
        let (rate, _) = search(20e6, 0.0, 0.01, slow).unwrap().unwrap();
        assert!((0.97 * capacity..=1.03 * capacity).contains(&rate), "a port that holds back: {rate}");
        let dead = |_| Ok(Outcome { seconds: 1.0, ..Outcome::default() });
        assert!(search(5e6, 0.0, 0.01, dead).unwrap().is_none(), "a port that takes nothing");
        let broken = |_| Ok(Outcome { sent: 10, seconds: 1.0, ..Outcome::default() });
        assert!(search(5e6, 0.0, 0.01, broken).unwrap().is_none());
    }
}
