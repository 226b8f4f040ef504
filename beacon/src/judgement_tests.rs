use super::*;
use crate::Config;

/// All that `pairs` say heard lately and often; `young` lately only.
fn view(pairs: &[(usize, usize)], young: &[(usize, usize)]) -> View {
    let mut view = View::default();
    for (a, b) in pairs.iter().chain(young) {
        for (from, to) in [(*a, *b), (*b, *a)] {
            view.alive.0[to] |= 1 << from;
            view.firm.0[to] |= 1 << from;
            let graph = if young.contains(&(*a, *b)) { &mut view.young } else { &mut view.proved };
            graph.0[to] |= 1 << from;
        }
    }
    view
}

fn cast(judged: u64) -> Cast {
    Cast { judged, ..Cast::default() }
}

#[test]
fn when_the_last_good_one_is_gone_nothing_is_waited_for() {
    let (timing, t) = (Config::default().timing(), Duration::from_secs(10));
    let mut judgement = Judgement::default();
    assert!(judgement.step(&view(&[(0, 1)], &[]), cast(0b1111), t, &timing));
    assert_eq!(judgement.finding, Finding { outcome: Outcome::Split, top: 0b0011, failed: 0b1100 });
    // Both good ones lose their link; the failed ones begin to hear each other one way: a tie, not complete yet.
    let mut half = View::default();
    (half.alive.0[2], half.young.0[2], half.firm.0[2]) = (1 << 3, 1 << 3, 1 << 3);
    assert!(judgement.step(&half, cast(0b1100), t, &timing));
    assert_eq!(judgement.finding, Finding { outcome: Outcome::Tie, top: 0, failed: 0 });
}

#[test]
fn a_change_for_the_worse_waits_for_young_edges_and_no_longer_than_the_hold_time() {
    let timing = Config::default().timing();
    let mut judgement = Judgement::default();
    let mut t = Duration::from_secs(10);
    judgement.step(&view(&[], &[]), cast(0b1111), t, &timing);
    assert_eq!(judgement.finding.outcome, Outcome::Filtered);
    let step = |judgement: &mut Judgement, t| judgement.step(&view(&[], &[(0, 1)]), cast(0b1111), t, &timing);
    assert!(!step(&mut judgement, t));
    t += timing.hold;
    assert!(!step(&mut judgement, t), "not proven, so it stays filtered");
    t += timing.patience;
    assert!(step(&mut judgement, t), "but not for ever");
    assert_eq!(judgement.finding.failed, 0b1100);
}

#[test]
fn returning_ones_that_are_all_that_is_right_need_no_proof() {
    let (timing, t) = (Config::default().timing(), Duration::from_secs(10));
    let mut judgement = Judgement::default();
    judgement.step(&view(&[(0, 1), (1, 2)], &[]), cast(0b11111), t, &timing);
    assert_eq!(judgement.finding.failed, 0b11000);
    // 3 and 4 hear each other, one of the good ones has link: two against one.
    judgement.step(&view(&[], &[(3, 4)]), cast(0b11001), t, &timing);
    assert!(judgement.step(&view(&[], &[(3, 4)]), cast(0b11001), t + timing.hold, &timing));
    assert_eq!(judgement.finding, Finding { outcome: Outcome::Split, top: 0b11000, failed: 0b00001 });
}
