//! The style, the script and the icon, which are part of the program.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::sha256;

const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/script.js");
const ICON: &str = include_str!("../../assets/icon.svg");
/// What plays recorded terminals: ours, and asciinema-player (Apache License 2.0; see its folder).
const TERMINAL: &str = include_str!("../../assets/terminal.js");
const PLAYER: &str = include_str!("../../assets/asciinema-player/asciinema-player.min.js");
const PLAYER_STYLE: &str = include_str!("../../assets/asciinema-player/asciinema-player.css");
const PLAYER_LICENSE: &str = include_str!("../../assets/asciinema-player/LICENSE");

/// Stands in the assets' addresses, so that a new version's are not taken for the ones before.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    sha256(&[STYLE, SCRIPT, ICON, TERMINAL, PLAYER, PLAYER_STYLE].concat()).chars().take(12).collect()
});

/// One of them.
pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "script.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "icon.svg" => ("image/svg+xml", ICON),
        "terminal.js" => ("text/javascript; charset=utf-8", TERMINAL),
        "player.js" => ("text/javascript; charset=utf-8", PLAYER),
        "player.css" => ("text/css; charset=utf-8", PLAYER_STYLE),
        "player-license.txt" => ("text/plain; charset=utf-8", PLAYER_LICENSE),
        _ => return Err(Problem::not_found("file")),
    };
    let mut response = ([(header::CONTENT_TYPE, kind)], text).into_response();
    let cache = HeaderValue::from_static("public, max-age=31536000, immutable");
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    Ok(response)
}
