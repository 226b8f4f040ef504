//! side-by-side [--rounds N] [--seconds S] [--only WORD,...] [--out DIR]: the switch beside its peers; writes RESULTS.md
//! and results.svg. With words, only the works whose names hold one of them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use benches::side::{self, Machine};

fn main() -> Result<()> {
    let (mut rounds, mut seconds, mut only, mut out) = (5, 1.0, String::new(), PathBuf::from("benches"));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--only" => only = value()?,
            "--out" => out = value()?.into(),
            other => bail!("{other} is unknown; known: --rounds, --seconds, --only, --out"),
        }
    }
    let list: Vec<_> = side::works().into_iter().filter(|w| only.split(',').any(|o| w.id.contains(o))).collect();
    if list.is_empty() {
        bail!("no work's name holds one of {only}; names: {}", names(&side::works()));
    }
    let figures = side::run(&list, rounds, seconds, &mut |line| println!("{line}"))?;
    std::fs::create_dir_all(&out)?;
    let page = side::report(&list, &figures, rounds, seconds, &Machine::this());
    // What people made of it, which no run can say.
    let notes = std::fs::read_to_string(out.join("NOTES.md")).unwrap_or_default();
    std::fs::write(out.join("RESULTS.md"), page + &notes)?;
    side::plot(&out.join("results.svg"), &list, &figures)
}

fn names(list: &[side::Work]) -> String {
    list.iter().map(|w| w.id).collect::<Vec<_>>().join(", ")
}
