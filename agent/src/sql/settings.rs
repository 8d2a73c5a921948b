//! Settings whose change concerns how later text is read, or what the server runs.

/// Whether setting `name` to `value` changes how the server splits later text into tokens, so that
/// what it reads is no longer what [`analyze`](super::analyze) reads. `None` is a value that is not
/// known. Names and values are compared as the server does, without regard to case.
///
/// `standard_conforming_strings` other than on makes a backslash escape the quote after it. In the
/// encodings that only clients can have (Shift JIS, Big5, GBK, UHC, GB18030, Johab) the second byte of
/// a character can be an ASCII backslash or letter.
pub fn setting_changes_lexing(name: &str, value: Option<&str>) -> bool {
    if name.eq_ignore_ascii_case("standard_conforming_strings") {
        return !value.is_some_and(is_on);
    }
    if name.eq_ignore_ascii_case("client_encoding") {
        let Some(value) = value else { return true };
        // The server ignores everything but letters and digits in an encoding's name.
        let plain: String =
            value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        return ["sjis", "shiftjis", "mskanji", "win932", "windows932", "big5", "win950", "windows950"]
            .iter()
            .chain(&["gbk", "win936", "windows936", "uhc", "win949", "windows949", "gb18030", "johab"])
            .any(|unsafe_encoding| plain.starts_with(unsafe_encoding));
    }
    false
}

/// The server's way of reading a truth value: any unambiguous beginning of a word, or a digit.
fn is_on(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    !value.is_empty()
        && (value == "on" || value == "1" || "true".starts_with(&value) || "yes".starts_with(&value))
}

/// A setting that names a program, library or other server for the server to use.
pub(super) fn reaches_outside(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("_command")
        || name.ends_with("_preload_libraries")
        || name.ends_with("conninfo")
        || matches!(
            name.as_str(),
            "archive_library"
                | "dynamic_library_path"
                | "extension_control_path"
                | "jit_provider"
                | "krb_server_keyfile"
                | "oauth_validator_libraries"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_change_the_lexer_are_known_in_every_spelling() {
        for (name, value) in [
            ("standard_conforming_strings", Some("off")),
            ("STANDARD_conforming_strings", Some("F")),
            ("standard_conforming_strings", Some("0")),
            ("standard_conforming_strings", Some("no")),
            ("standard_conforming_strings", None),
            ("client_encoding", Some("SJIS")),
            ("client_encoding", Some("Shift_JIS_2004")),
            ("client_encoding", Some("gb-18030")),
            ("Client_Encoding", Some("Windows-950")),
            ("client_encoding", None),
        ] {
            assert!(setting_changes_lexing(name, value), "{name} {value:?}");
        }
        for (name, value) in [
            ("standard_conforming_strings", Some("on")),
            ("standard_conforming_strings", Some("TR")),
            ("standard_conforming_strings", Some("1")),
            ("client_encoding", Some("UTF8")),
            ("client_encoding", Some("latin1")),
            ("client_encoding", Some("EUC_JP")),
            ("search_path", None),
        ] {
            assert!(!setting_changes_lexing(name, value), "{name} {value:?}");
        }
    }
}
