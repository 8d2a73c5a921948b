//! Somebody at the collector's pages, by curl.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::process::{Finished, LIMIT, finish};
use crate::{Collector, wait_for};

/// What stands before the link in the log.
const BEFORE_LINK: &str = "first administrator at ";

/// A browser that is signed in.
#[derive(Debug)]
pub struct Browser {
    base: String,
    directory: TempDir,
}

impl Browser {
    /// Makes the collector's first account, an administrator, by the link in its log.
    ///
    /// # Errors
    /// There is no such link, or it is not taken.
    pub fn set_up(collector: &Collector) -> Result<Self> {
        let mut log = String::new();
        // It is written when the collector has begun to listen.
        wait_for("the set-up link in the collector's log", LIMIT, || {
            log = collector.log();
            log.contains(BEFORE_LINK)
        })?;
        let link = log.rsplit_once(BEFORE_LINK).and_then(|(_, link)| link.lines().next());
        Self::by_link(link.map(str::trim).context("no set-up link in the log")?)
    }

    /// Makes the first account, an administrator, by a set-up link.
    ///
    /// # Errors
    /// It is not taken.
    pub fn by_link(link: &str) -> Result<Self> {
        let from = link.find("/set-up/").context("the set-up link has no path")?;
        let (base, path) = link.split_at(from);
        let browser = Self { base: base.to_owned(), directory: crate::temporary_directory("browser")? };
        let password = "a password for tests";
        browser.submit(path, &[("name", "root"), ("password", password), ("repeated", password)])?;
        Ok(browser)
    }

    /// Signs in to another account at the same collector.
    ///
    /// # Errors
    /// It is refused.
    pub fn another(&self, name: &str, password: &str) -> Result<Self> {
        let browser = Self { base: self.base.clone(), directory: crate::temporary_directory("browser")? };
        browser.submit("/sign-in", &[("name", name), ("password", password)])?;
        Ok(browser)
    }

    fn curl(&self, path: &str, arguments: &[String]) -> Result<Finished> {
        let jar = self.directory.path().join("cookies");
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--max-time", "30", "-b"]).arg(&jar).arg("-c").arg(&jar);
        finish(command.args(arguments).arg(format!("{}{path}", self.base)), "", LIMIT)
    }

    /// A page, or what the API answers.
    ///
    /// # Errors
    /// It is refused.
    pub fn get(&self, path: &str) -> Result<String> {
        let finished = self.curl(path, &[])?;
        ensure!(finished.success(), "GET {path}: {}", finished.both());
        Ok(finished.stdout)
    }

    /// Fills in the form of a page and sends it to that page.
    ///
    /// # Errors
    /// The page has no form, or it is refused.
    pub fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Result<String> {
        self.submit_to(path, path, fields)
    }

    /// Fills in a form of a page that is sent elsewhere.
    ///
    /// # Errors
    /// The page has no form, or it is refused: the error has what was answered.
    pub fn submit_to(&self, page: &str, path: &str, fields: &[(&str, &str)]) -> Result<String> {
        let page = self.get(page)?;
        let secret = page.split_once(r#"name="csrf" value=""#).and_then(|(_, rest)| rest.split_once('"'));
        let (secret, _) = secret.with_context(|| format!("no form on {path}: {page}"))?;
        let mut arguments = vec!["--data-urlencode".to_owned(), format!("csrf={secret}")];
        for (name, value) in fields {
            arguments.extend(["--data-urlencode".to_owned(), format!("{name}={value}")]);
        }
        arguments.extend(["-H".to_owned(), "Sec-Fetch-Site: same-origin".to_owned()]);
        let finished = self.curl(path, &arguments)?;
        ensure!(finished.success(), "POST {path}: {}", finished.both());
        Ok(finished.stdout)
    }
}
