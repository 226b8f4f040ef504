//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Deref;

/// A place in the configuration file. Line and column count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct At {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where the file gives it. Two are equal when their values are: a value that moved to
/// another line is no change of configuration.
#[derive(Clone, Debug, Default)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

impl<T> Deref for Located<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Display> fmt::Display for Located<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// One problem: a sentence that names the thing and the mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` when the file as a whole is meant.
    pub at: Option<At>,
    /// What is wrong and how to mend it, without the place.
    pub sentence: String,
}

/// Every problem found in one configuration, by line; displayed one a line, each with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// The problems of `file`, which this sorts by place.
    pub fn new(file: &str, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|p| p.at);
        Problems { file: file.to_owned(), list }
    }

    /// One problem of the file as a whole.
    pub fn of_file(file: &str, sentence: String) -> Problems {
        Problems { file: file.to_owned(), list: vec![Problem { at: None, sentence }] }
    }

    /// The problems, by line.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            match problem.at {
                Some(at) => write!(f, "{line_break}{}:{at}: {}", self.file, problem.sentence)?,
                None => write!(f, "{line_break}{}: {}", self.file, problem.sentence)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems while a file is read, and turns byte offsets into places.
pub(super) struct Report<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Report<'t> {
    pub(super) fn new(text: &'t str) -> Report<'t> {
        Report { text, problems: Vec::new() }
    }

    /// The place of byte `offset`.
    pub(super) fn at(&self, offset: usize) -> At {
        place(self.text.as_bytes(), offset)
    }

    pub(super) fn add(&mut self, at: At, sentence: String) {
        self.problems.push(Problem { at: Some(at), sentence });
    }

    /// How many problems were found so far.
    pub(super) fn len(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn into_problems(self, file: &str) -> Problems {
        Problems::new(file, self.problems)
    }
}

/// The place of byte `offset` of `bytes`, which need not be valid UTF-8 beyond that offset.
pub(super) fn place(bytes: &[u8], offset: usize) -> At {
    let before = &bytes[..offset.min(bytes.len())];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    // Characters, not bytes: continuation bytes of UTF-8 (10xxxxxx) do not count.
    let column = before[line_start..].iter().filter(|b| **b & 0xc0 != 0x80).count() + 1;
    At { line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) }
}
