//! Reading a lab's file with a place for every problem.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Every problem of a file, by place: one sentence a line, each `FILE:LINE:COLUMN: what is wrong; the mend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// One problem of the file as a whole.
    pub(super) fn of_file(file: &str, sentence: &str) -> Problems {
        Problems(vec![format!("{file}: {sentence}")])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

/// A word of the file and the byte it begins at.
#[derive(Clone, Debug, Default)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: usize,
}

/// Collects problems while a file is read.
pub(super) struct Report<'t> {
    file: &'t str,
    text: &'t str,
    problems: Vec<(usize, String)>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Report<'t> {
        Report { file, text, problems: Vec::new() }
    }

    /// A problem at byte `at`.
    pub(super) fn add(&mut self, at: usize, sentence: String) {
        self.problems.push((at, sentence));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn finish(mut self) -> Problems {
        self.problems.sort_by_key(|(at, _)| *at);
        let place = |at: usize| {
            let before = self.text.get(..at).unwrap_or(self.text);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            format!("{}:{line}:{column}", self.file)
        };
        Problems(self.problems.iter().map(|(at, sentence)| format!("{}: {sentence}", place(*at))).collect())
    }
}

/// One table of the file.
pub(super) struct Section<'d> {
    table: &'d DeTable<'d>,
    /// Where it begins.
    pub(super) at: usize,
    /// What sentences call it.
    pub(super) what: String,
}

impl<'d> Section<'d> {
    /// The table, its unknown keys reported.
    pub(super) fn new(
        report: &mut Report<'_>,
        table: &'d DeTable<'d>,
        keys: &[&str],
        at: usize,
        what: String,
    ) -> Section<'d> {
        for key in table.keys().filter(|k| !keys.contains(&k.get_ref().as_ref())) {
            let word = key.get_ref().escape_debug();
            let sentence = format!("unknown key \"{word}\" in {what}; known here: {}", keys.join(", "));
            report.add(key.span().start, sentence);
        }
        Section { table, at, what }
    }

    fn get(&self, key: &str) -> Option<(&'d DeValue<'d>, Range<usize>)> {
        let value: &'d Spanned<DeValue<'d>> = self.table.get(key)?;
        Some((value.get_ref(), value.span()))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn wrong(&self, report: &mut Report<'_>, key: &str, at: usize, example: &str) {
        report.add(at, format!("{key} of {} is not as it must be; write it as in {example}", self.what));
    }

    /// A string.
    pub(super) fn string(&self, report: &mut Report<'_>, key: &str, example: &str) -> Option<Word> {
        let (value, span) = self.get(key)?;
        let word = value.as_str().map(|text| Word { text: text.to_owned(), at: span.start });
        if word.is_none() {
            self.wrong(report, key, span.start, example);
        }
        word
    }

    /// A string that must be there.
    pub(super) fn required(&self, report: &mut Report<'_>, key: &str, example: &str) -> Option<Word> {
        if self.get(key).is_none() {
            report.add(self.at, format!("{} has no {key}; add one as in {example}", self.what));
        }
        self.string(report, key, example)
    }

    /// A whole number within a range, and where it stands.
    pub(super) fn number(
        &self,
        report: &mut Report<'_>,
        key: &str,
        (low, high): (u16, u16),
        example: &str,
    ) -> Option<(u16, usize)> {
        let (value, span) = self.get(key)?;
        let number = value.as_integer().and_then(|n| u16::from_str_radix(n.as_str(), n.radix()).ok());
        match number {
            Some(number) if (low..=high).contains(&number) => Some((number, span.start)),
            _ if value.as_integer().is_some() => {
                let sentence = format!("{key} of {} is outside {low} to {high}; write one as in {example}", self.what);
                report.add(span.start, sentence);
                None
            }
            _ => {
                self.wrong(report, key, span.start, example);
                None
            }
        }
    }

    /// A list of strings, and where it stands; `None` when it is absent or no such list.
    pub(super) fn strings(&self, report: &mut Report<'_>, key: &str, example: &str) -> Option<(Vec<Word>, usize)> {
        let (value, span) = self.get(key)?;
        let words = value.as_array().and_then(|list| {
            let word = |v: &Spanned<DeValue<'_>>| {
                v.get_ref().as_str().map(|text| Word { text: text.to_owned(), at: v.span().start })
            };
            list.iter().map(word).collect::<Option<Vec<_>>>()
        });
        if words.is_none() {
            self.wrong(report, key, span.start, example);
        }
        Some((words?, span.start))
    }

    /// The tables of a list such as `[[host]]`.
    pub(super) fn tables(&self, report: &mut Report<'_>, kind: &str, keys: &[&str]) -> Vec<Section<'d>> {
        let Some((value, span)) = self.get(kind) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            report.add(span.start, format!("{kind} is no list of tables; write [[{kind}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in list.iter() {
            let at = element.span().start;
            let Some(table) = element.get_ref().as_table() else {
                report.add(at, format!("{kind} holds something that is no table; write [[{kind}]]"));
                continue;
            };
            let name = table.get("name").and_then(|v| v.get_ref().as_str());
            let what = name.map_or(format!("[[{kind}]]"), |name| format!("{kind} \"{}\"", name.escape_debug()));
            sections.push(Section::new(report, table, keys, at, what));
        }
        sections
    }
}
