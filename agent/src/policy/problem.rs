//! What is wrong with policies: where, what, and what to write instead.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A place in a file, counted from 1; columns count characters. Both 0: the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

impl Position {
    /// The file's first character.
    pub const START: Self = Self { line: 1, column: 1 };
    /// No place in it: the file cannot be read, for instance.
    pub const WHOLE: Self = Self { line: 0, column: 0 };
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The policies are not loaded.
    Error,
    /// They are loaded, but some part of them cannot do what it says.
    Warning,
}

/// One thing that is wrong in a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the policies can be used all the same.
    pub severity: Severity,
    /// The file, as it was named to the loader.
    pub file: Arc<str>,
    /// Where in the file.
    #[serde(flatten)]
    pub at: Position,
    /// What is wrong.
    pub message: String,
    /// What to write or do instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Problem {
    pub(crate) fn error(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, file: file.into(), at, message: message.into(), help: None }
    }

    pub(crate) fn warning(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, at, message) }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at == Position::WHOLE {
            write!(f, "{}: ", self.file)?;
        } else {
            write!(f, "{}:{}:{}: ", self.file, self.at.line, self.at.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Why policies could not be loaded: everything that is wrong in any of the files, each with file,
/// line, column and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyErrors(pub Vec<Problem>);

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}
