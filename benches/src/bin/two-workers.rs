//! two-workers [--rounds N] [--seconds S] [--out DIR]: two workers on two CPUs against one; writes a chapter of SIZE.md.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use benches::lines;
use benches::side::median;
use benches::size::{self, Measured, Work};

fn main() -> Result<()> {
    let (mut rounds, mut seconds, mut out) = (5, 0.4, PathBuf::from("benches"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--out" => out = value()?.into(),
            other => bail!("{other} is unknown; known: --rounds, --seconds, --out"),
        }
    }
    let works = [
        (Work::Apart, "apart", None),
        (Work::Disjoint, "disjoint pairs", Some(1.8)),
        (Work::Common, "into one common destination", Some(1.5)),
    ];
    let cases: Vec<_> = [60, 508, 1514].into_iter().flat_map(|frame| works.map(|work| (frame, work))).collect();
    let (mut figures, mut missing, mut trips) = (vec![Vec::new(); cases.len()], 0, Vec::new());
    let mut together = Vec::new();
    for round in 1..=rounds {
        trips.extend(lines::round_trip());
        for ((frame, (work, name, _)), all) in cases.iter().zip(&mut figures) {
            let one = size::measure(*work, 1, *frame, seconds);
            let two = size::measure(*work, 2, *frame, seconds);
            missing += usize::from(!one.accounted) + usize::from(!two.accounted);
            let ratio = two.rate / one.rate;
            println!("round {round}/{rounds}: {name} {frame}: {:.2} and {:.2} Mpps: {ratio:.2}", one.rate, two.rate);
            all.push((one.rate, two.rate));
            together.push(two.together);
        }
    }
    let rows: Vec<_> = cases
        .iter()
        .zip(&figures)
        .map(|((frame, (_, name, goal)), all)| {
            let middle = |of: fn(&(f64, f64)) -> f64| median(all.iter().map(of).collect());
            (*name, *frame, middle(|f| f.0), middle(|f| f.1), middle(|f| f.1 / f.0), *goal)
        })
        .collect();
    let how = Measured { rounds, missing, together: median(together), trips };
    std::fs::create_dir_all(&out)?;
    Ok(size::put(&out.join("SIZE.md"), "Two workers on two cores", &size::workers(&rows, &how))?)
}
