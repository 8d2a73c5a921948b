//! Where tokens are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::{self, Readings};
use super::holder::Holder;
use super::request::Request;
use super::tree::{Shown, Tree};
use crate::identity::config::Provider;
use crate::identity::oidc::{Issuer, MAX_TOKEN};

/// What may prove who a process is.
pub(super) enum Candidate {
    /// A token.
    Token { token: Zeroizing<String>, holder: Holder, shown: Option<Shown> },
    /// An address that gives out tokens, and what it wants to see.
    Request { request: Request, holder: Holder, shown: Shown },
}

/// What a process has to show for an issuer, in order, or why what stands there is none.
pub(super) fn candidates(
    issuer: &Issuer,
    tree: &Tree,
    readings: &Arc<Readings>,
) -> Vec<Result<Candidate, String>> {
    let place = &issuer.config().token;
    let mut found = Vec::new();
    if issuer.config().provider == Provider::GithubActions
        && let (Some((url, _)), Some((bearer, link))) =
            (tree.variable("ACTIONS_ID_TOKEN_REQUEST_URL"), tree.variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
    {
        let shown = shown("ACTIONS_ID_TOKEN_REQUEST_TOKEN", bearer);
        let request = Request::new(issuer, url, bearer);
        found.push(request.map(|request| Candidate::Request { request, holder: tree.holder(link), shown }));
    }
    if let Some(name) = place.variable.as_deref()
        && let Some((token, link)) = tree.variable(name)
    {
        let shown = Some(shown(name, token));
        found.push(text(token).map(|token| Candidate::Token { token, holder: tree.holder(link), shown }));
    }
    let named = place.file_variable.as_deref().and_then(|name| tree.variable(name));
    let paths = named.map(|(path, _)| PathBuf::from(path)).into_iter().chain(place.file.clone());
    for path in paths {
        match in_file(tree, &path, readings) {
            Ok(Some(token)) => {
                let holder = Holder::Container(tree.container());
                found.push(Ok(Candidate::Token { token, holder, shown: None }));
            }
            Ok(None) => {}
            Err(why) => found.push(Err(why)),
        }
    }
    found
}

fn shown(variable: &str, value: &str) -> Shown {
    Shown { variable: variable.to_owned(), value: Zeroizing::new(value.to_owned()) }
}

/// A token from a text, without the blanks around it.
fn text(token: &str) -> Result<Zeroizing<String>, String> {
    let token = token.trim();
    if token.len() > MAX_TOKEN {
        return Err(format!("what stands where its token should be has more than {MAX_TOKEN} bytes"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

/// A token from a file that the process can read; `None` where there is no such file.
fn in_file(tree: &Tree, path: &Path, readings: &Arc<Readings>) -> Result<Option<Zeroizing<String>>, String> {
    let bytes = match file::read(tree.pid(), &tree.account, path, readings) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("the token's file {}: {error}", path.display())),
    };
    let token = std::str::from_utf8(&bytes).map_err(|_| "the token's file holds no text".to_owned())?;
    text(token).map(Some)
}
