//! Every frame is accounted for: the sums that hold over a status document once traffic rests.
//!
//! ```text
//!  per port:  in.frames   = in.forwarded + in.dropped
//!             out.offered = out.frames   + out.dropped
//!             sum(drops)  = in.dropped   + out.dropped
//!  switch:    sum(in.copies) + sum(out.segments) + sum(out.originated) = sum(out.offered)
//! ```

use super::{PortStatus, Status};

/// Checks the sums. Take `status` while no frame is under way: a frame between two ports is counted
/// at one of them only.
///
/// # Errors
/// Every sum that does not hold, with its numbers, joined by semicolons.
pub fn check(status: &Status) -> Result<(), String> {
    let mut wrong: Vec<String> = status.ports.iter().flat_map(check_port).collect();
    let copies = sum(status.ports.iter().map(|p| p.input.copies));
    let segments = sum(status.ports.iter().map(|p| p.output.segments));
    let originated = sum(status.ports.iter().map(|p| p.output.originated));
    let offered = sum(status.ports.iter().map(|p| p.output.offered));
    if copies + segments + originated != offered {
        let own = if originated == 0 { String::new() } else { format!(" and {originated} frames of its own") };
        wrong.push(format!(
            "switch: {copies} copies in and {segments} segments{own} are not the {offered} frames offered out"
        ));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn check_port(port: &PortStatus) -> Vec<String> {
    let (name, input, output) = (&port.name, &port.input, &port.output);
    let mut wrong = Vec::new();
    if sum([input.forwarded, input.dropped]) != u128::from(input.frames) {
        wrong.push(format!(
            "{name}: {} frames in are not {} forwarded and {} dropped",
            input.frames, input.forwarded, input.dropped
        ));
    }
    if sum([output.frames, output.dropped]) != u128::from(output.offered) {
        wrong.push(format!(
            "{name}: {} frames offered are not {} out and {} dropped",
            output.offered, output.frames, output.dropped
        ));
    }
    let named = sum(port.drops.values().copied());
    if named != sum([input.dropped, output.dropped]) {
        wrong.push(format!(
            "{name}: drops by reason add up to {named}, not to {} in and {} out",
            input.dropped, output.dropped
        ));
    }
    wrong
}

/// In 128 bits, as a document from elsewhere may hold any number.
fn sum(values: impl IntoIterator<Item = u64>) -> u128 {
    values.into_iter().map(u128::from).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status_sample as sample;

    #[test]
    fn a_balanced_switch_passes() {
        assert_eq!(check(&sample()), Ok(()));
    }

    #[test]
    fn each_sum_is_checked() {
        let broken = |change: fn(&mut Status)| {
            let mut status = sample();
            change(&mut status);
            check(&status).unwrap_err()
        };
        assert_eq!(broken(|s| s.ports[0].input.frames += 1), "web1: 11 frames in are not 10 forwarded and 0 dropped");
        assert_eq!(broken(|s| s.ports[0].output.frames -= 1), "web1: 9 frames offered are not 8 out and 0 dropped");
        assert_eq!(
            broken(|s| {
                s.ports[1].drops.insert("runt".to_owned(), 1);
            }),
            "vmnic0: drops by reason add up to 1234569, not to 1234567 in and 1 out"
        );
        assert_eq!(
            broken(|s| s.ports[0].input.copies += 2),
            "switch: 21 copies in and 2 segments and 5 frames of its own are not the 26 frames offered out"
        );
        assert_eq!(
            broken(|s| s.ports[2].output.originated = 0),
            "switch: 19 copies in and 2 segments are not the 26 frames offered out"
        );
        assert!(broken(|s| s.ports[0].input.frames = u64::MAX).contains("18446744073709551615"));
    }
}
