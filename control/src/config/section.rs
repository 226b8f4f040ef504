//! Typed reading of one table of the file.
//!
//! A tree with spans rather than `Deserialize`: serde stops at the first problem, and a person who
//! mends a file wants all of them at once, each with its place.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Key;
use super::nearest::nearest;
use super::problem::{At, Located, Report};

/// One table and the name that sentences call it by.
pub(super) struct Section<'d> {
    table: &'d DeTable<'d>,
    keys: &'static [Key],
    /// Where the table begins.
    pub(super) at: At,
    /// What sentences call it: `[team]`, `vnic "web1"`.
    pub(super) what: String,
}

type Value<'d> = Spanned<DeValue<'d>>;

impl<'d> Section<'d> {
    /// The table, with every key that is not one of `keys` reported.
    pub(super) fn new(
        report: &mut Report<'_>,
        table: &'d DeTable<'d>,
        keys: &'static [Key],
        at: At,
        what: String,
    ) -> Section<'d> {
        for unknown in table.keys().filter(|k| keys.iter().all(|known| *k.get_ref() != known.name)) {
            let at = report.at(unknown.span().start);
            let word = unknown.get_ref();
            let mend = match nearest(word, keys.iter().map(|k| k.name)) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None => format!("known here: {}", list(keys.iter().map(|k| k.name))),
            };
            report.add(at, format!("unknown key \"{}\" in {what}; {mend}", word.escape_debug()));
        }
        Section { table, keys, at, what }
    }

    fn get(&self, report: &Report<'_>, key: &str) -> Option<(&'d DeValue<'d>, At)> {
        let value: &Value<'d> = self.table.get(key)?;
        Some((value.get_ref(), report.at(value.span().start)))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the value of `key` stands, if the file gives it.
    pub(super) fn place(&self, report: &Report<'_>, key: &str) -> Option<At> {
        self.get(report, key).map(|(_, at)| at)
    }

    pub(super) fn holds_string(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|v| v.get_ref().is_str())
    }

    fn example(&self, key: &str) -> &'static str {
        self.keys.iter().find(|k| k.name == key).map_or("", |k| k.example)
    }

    fn wrong_type(&self, report: &mut Report<'_>, key: &str, value: &DeValue<'_>, at: At, want: &str) {
        let (what, is, example) = (&self.what, type_name(value), self.example(key));
        report.add(at, format!("{key} in {what} is {is}, but must be {want}; write it as in {example}"));
    }

    /// Reports that a key without a default is absent.
    pub(super) fn missing(&self, report: &mut Report<'_>, key: &str) {
        report.add(self.at, format!("{} has no {key}; add one as in {}", self.what, self.example(key)));
    }

    pub(super) fn string(&self, report: &mut Report<'_>, key: &str) -> Option<Located<String>> {
        let (value, at) = self.get(report, key)?;
        match value {
            DeValue::String(text) => Some(Located { value: text.clone().into_owned(), at }),
            other => {
                self.wrong_type(report, key, other, at, "a string");
                None
            }
        }
    }

    /// A string that must be there.
    pub(super) fn required(&self, report: &mut Report<'_>, key: &str) -> Option<Located<String>> {
        if !self.has(key) {
            self.missing(report, key);
        }
        self.string(report, key)
    }

    /// A whole number; one beyond 128 bits counts as the largest, which every range refuses.
    pub(super) fn integer(&self, report: &mut Report<'_>, key: &str) -> Option<Located<i128>> {
        let (value, at) = self.get(report, key)?;
        match integer_value(value) {
            Some(value) => Some(Located { value, at }),
            None => {
                self.wrong_type(report, key, value, at, "a whole number");
                None
            }
        }
    }

    /// A whole number within `low..=high`; `mend` ends the sentence that refuses another.
    pub(super) fn integer_in(
        &self,
        report: &mut Report<'_>,
        key: &str,
        (low, high): (u32, u32),
        mend: &str,
    ) -> Option<u32> {
        let number = self.integer(report, key)?;
        match u32::try_from(number.value) {
            Ok(value) if (low..=high).contains(&value) => Some(value),
            _ => {
                report.add(number.at, format!("{key} {number} in {} is outside {low} to {high}; {mend}", self.what));
                None
            }
        }
    }

    pub(super) fn boolean(&self, report: &mut Report<'_>, key: &str) -> Option<bool> {
        let (value, at) = self.get(report, key)?;
        if value.as_bool().is_none() {
            self.wrong_type(report, key, value, at, "true or false");
        }
        value.as_bool()
    }

    /// A list whose elements `read` understands, which are named `of` in sentences.
    fn array<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        of: &str,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Option<Located<Vec<Located<T>>>> {
        let (value, at) = self.get(report, key)?;
        let Some(array) = value.as_array() else {
            self.wrong_type(report, key, value, at, &format!("a list of {of}"));
            return None;
        };
        let mut values = Vec::new();
        for element in array.iter() {
            let at = report.at(element.span().start);
            match read(element.get_ref()) {
                Some(value) => values.push(Located { value, at }),
                None => {
                    let (what, is, example) = (&self.what, type_name(element.get_ref()), self.example(key));
                    let sentence =
                        format!("{key} in {what} holds {is}, but must hold {of} only; write it as in {example}");
                    report.add(at, sentence);
                }
            }
        }
        Some(Located { value: values, at })
    }

    pub(super) fn strings(&self, report: &mut Report<'_>, key: &str) -> Option<Located<Vec<Located<String>>>> {
        self.array(report, key, "strings", |v| v.as_str().map(str::to_owned))
    }

    pub(super) fn integers(&self, report: &mut Report<'_>, key: &str) -> Option<Located<Vec<Located<i128>>>> {
        self.array(report, key, "whole numbers", integer_value)
    }

    /// One of the words in `choices`.
    pub(super) fn choice<T: Copy>(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let word = self.string(report, key)?;
        let found = choices.iter().find(|(text, _)| *text == *word);
        match found {
            Some((_, value)) => Some(*value),
            None => {
                let words = || choices.iter().map(|(text, _)| *text);
                let mend = match nearest(&word, words()) {
                    Some(known) => format!("did you mean \"{known}\"?"),
                    None => format!("known: {}", list(words())),
                };
                let word_shown = word.escape_debug();
                report.add(word.at, format!("{key} \"{word_shown}\" in {} is unknown; {mend}", self.what));
                None
            }
        }
    }

    /// A table below this one, if the file has it.
    pub(super) fn table(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        keys: &'static [Key],
        what: String,
    ) -> Option<Section<'d>> {
        let (value, at) = self.get(report, key)?;
        match value.as_table() {
            Some(table) => Some(Section::new(report, table, keys, at, what)),
            None => {
                let is = type_name(value);
                report.add(at, format!("{key} is {is}, but must be a table; write {}", self.example(key)));
                None
            }
        }
    }

    /// The tables of a list such as `[[vnic]]`; each is called by its `kind` and name where it has one.
    pub(super) fn tables(
        &self,
        report: &mut Report<'_>,
        key: &'static str,
        kind: &str,
        keys: &'static [Key],
    ) -> Vec<Section<'d>> {
        let Some((value, at)) = self.get(report, key) else { return Vec::new() };
        let example = self.example(key);
        let Some(array) = value.as_array() else {
            let is = type_name(value);
            report.add(at, format!("{key} is {is}, but must be a list of tables; write {example}"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in array.iter() {
            let at = report.at(element.span().start);
            let Some(table) = element.get_ref().as_table() else {
                let is = type_name(element.get_ref());
                report.add(at, format!("{key} holds {is}, but must hold tables only; write {example}"));
                continue;
            };
            let name = table.get("name").and_then(|v| v.get_ref().as_str());
            let what = name.map_or(example.to_owned(), |name| format!("{kind} \"{}\"", name.escape_debug()));
            sections.push(Section::new(report, table, keys, at, what));
        }
        sections
    }
}

fn integer_value(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    Some(i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Joins words by commas.
pub(super) fn list<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}
