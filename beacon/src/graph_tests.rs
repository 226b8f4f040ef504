use proptest::prelude::*;

use super::*;

/// "01 12" and so on: who hears whom both ways; "0>1": 1 hears 0.
fn graph(text: &str) -> Graph {
    let mut graph = Graph::default();
    let place = |c: u8| usize::from(c - b'0');
    for edge in text.split_whitespace() {
        match *edge.as_bytes() {
            [a, b] => {
                graph.0[place(a)] |= 1 << place(b);
                graph.0[place(b)] |= 1 << place(a);
            }
            [a, b'>', b] => graph.0[place(b)] |= 1 << place(a),
            _ => panic!("{edge}"),
        }
    }
    graph
}

fn mask(text: &str) -> u64 {
    text.bytes().fold(0, |mask, c| mask | 1 << (c - b'0'))
}

#[test]
fn the_rules() {
    use Outcome::*;
    // Members, witnesses, connectors, edges; outcome, top, failed.
    let cases: &[(&str, &str, &str, &str, Outcome, &str, &str)] = &[
        ("", "", "", "", Unjudged, "", ""),
        ("0", "", "", "", Unjudged, "", ""),
        ("0", "1", "", "01", Unjudged, "", ""),
        ("01", "", "", "01", Whole, "01", ""),
        ("01", "", "", "", Tie, "", ""),
        ("01", "", "", "0>1", Tie, "", ""),
        ("012", "", "", "01 02 12", Whole, "012", ""),
        ("012", "", "", "01 12", Whole, "012", ""),
        ("012", "", "", "01", Split, "01", "2"),
        ("012", "", "", "01 2>0 2>1", Split, "01", "2"),
        ("012", "", "", "", Filtered, "", ""),
        ("012", "", "", "0>1", Tie, "", ""),
        ("012", "", "", "0>1 1>2 2>0", Tie, "", ""),
        ("0123", "", "", "01 23", Tie, "", ""),
        ("0123", "", "", "01", Split, "01", "23"),
        ("01234", "", "", "01 23", Tie, "", ""),
        ("01234", "", "", "01 12 34", Split, "012", "34"),
        ("0123", "", "", "", Filtered, "", ""),
        // Others help.
        ("01", "2", "", "02", Split, "0", "1"),
        ("01", "2", "", "02 12", Whole, "01", ""),
        ("01", "2", "", "", Tie, "", ""),
        ("01", "23", "", "23", Tie, "", ""),
        ("012", "345", "", "01 34 45", Split, "01", "2"),
        ("012", "3", "", "3>0", Tie, "", ""),
        ("012", "34", "", "34", Filtered, "", ""),
        ("01", "", "2", "02", Tie, "", ""),
        ("01", "", "2", "02 12", Whole, "01", ""),
        // Without link or of no interest: not there.
        ("01", "", "", "02 12", Tie, "", ""),
    ];
    for (judged, witnesses, connectors, edges, outcome, top, failed) in cases {
        let cast = Cast { judged: mask(judged), witnesses: mask(witnesses), connectors: mask(connectors) };
        let expected = Finding { outcome: *outcome, top: mask(top), failed: mask(failed) };
        assert_eq!(graph(edges).judge(&cast), expected, "{judged} {witnesses} {connectors}: {edges}");
    }
}

#[test]
fn the_dead_direction() {
    let finding = Finding { outcome: Outcome::Split, top: mask("01"), failed: mask("2") };
    let sides = |edges: &str| graph(edges).sides(&finding);
    assert_eq!(sides("01"), Sides { mute: mask("2"), deaf: mask("2") });
    assert_eq!(sides("01 2>0"), Sides { mute: 0, deaf: mask("2") });
    assert_eq!(sides("01 0>2"), Sides { mute: mask("2"), deaf: 0 });
    assert_eq!(sides("01 0>2 2>1"), Sides::default());
}

proptest! {
    #[test]
    fn never_all_and_only_members(rows: [u64; 32], judged: u32, witnesses: u32, connectors: u32) {
        let keep = |row: u64| row & u64::from(u32::MAX);
        let judged = u64::from(judged);
        let witnesses = u64::from(witnesses) & !judged;
        let cast = Cast { judged, witnesses, connectors: u64::from(connectors) & !judged & !witnesses };
        let finding = Graph(rows.map(keep)).judge(&cast);
        prop_assert_eq!((finding.failed | finding.top) & !judged, 0);
        prop_assert_eq!(finding.failed & finding.top, 0);
        prop_assert!(judged == 0 || finding.failed != judged);
        prop_assert!(matches!(finding.outcome, Outcome::Whole | Outcome::Split) == (finding.top != 0));
        prop_assert!((finding.outcome == Outcome::Split) == (finding.failed != 0));
    }
}
