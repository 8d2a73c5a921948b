//! Terminal output from a recording is hostile: it may set titles, write the clipboard, have the terminal
//! type answers, or make it as large as memory. [`Tame`] leaves what draws and takes out the rest.

/// The longest control sequence that is passed on, in bytes.
const SEQUENCE: usize = 64;
/// The greatest number in a control sequence.
const NUMBER: u32 = 9999;

/// The largest terminal that is shown.
pub const MOST_COLUMNS: u32 = 500;
/// Its rows.
pub const MOST_ROWS: u32 = 200;

/// A terminal's size as it is shown: at least one character, at most [`MOST_COLUMNS`] by [`MOST_ROWS`].
pub fn size(columns: u32, rows: u32) -> (u32, u32) {
    (columns.clamp(1, MOST_COLUMNS), rows.clamp(1, MOST_ROWS))
}

/// Makes bytes text as they come, in pieces that end anywhere.
#[derive(Debug, Default)]
pub struct Utf8 {
    rest: Vec<u8>,
}

impl Utf8 {
    /// The text of `bytes`, after what was left of the piece before. What is no UTF-8 becomes U+FFFD.
    pub fn take(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.rest.len());
        let whole = std::mem::take(&mut self.rest);
        let mut left = whole.as_slice();
        loop {
            match std::str::from_utf8(left) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => {
                    let (valid, bad) = left.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(length) = error.error_len() else {
                        // The beginning of a character.
                        self.rest = bad.to_vec();
                        return text;
                    };
                    text.push('\u{fffd}');
                    left = bad.get(length..).unwrap_or_default();
                }
            }
        }
    }
}

/// Where in a sequence it is.
#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and the first of two characters.
    Charset(char),
    /// After ESC and something that takes one more character.
    Skip,
    /// In a control sequence (CSI): what has come of it, or `None` when it is too long.
    Control(Option<String>),
    /// In a string (OSC, DCS, SOS, PM, APC), which ends with BEL or ST.
    String,
    /// In a string, after ESC.
    StringEscape,
}

/// Lets through text and what draws it: colours, the cursor, erasing, scrolling, the other screen.
#[derive(Debug, Default)]
pub struct Tame {
    state: State,
}

impl Tame {
    /// What of `text` may be shown, after what came before.
    pub fn take(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            self.put(character, &mut out);
        }
        out
    }

    fn put(&mut self, character: char, out: &mut String) {
        let state = std::mem::take(&mut self.state);
        self.state = match (state, character) {
            (State::String, '\u{7}' | '\u{9c}') => State::Text,
            (State::String | State::StringEscape, '\u{1b}') => State::StringEscape,
            // CAN and SUB end every sequence.
            (State::String | State::Control(_), '\u{18}' | '\u{1a}') => State::Text,
            (State::String, _) => State::String,
            (State::StringEscape, '\\') => State::Text,
            // ESC ends a string, and begins something else.
            (State::StringEscape, _) => {
                self.state = State::Escape;
                return self.put(character, out);
            }
            (_, '\u{1b}') => State::Escape,
            (State::Text, '\r' | '\n' | '\u{8}' | '\t' | '\u{b}' | '\u{c}' | '\u{e}' | '\u{f}') => {
                out.push(character);
                State::Text
            }
            (State::Text, '\u{9b}') => State::Control(Some(String::new())),
            (State::Text, '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}') => State::String,
            (State::Text, character) => {
                if !character.is_control() {
                    out.push(character);
                }
                State::Text
            }
            (State::Escape, '[') => State::Control(Some(String::new())),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            (State::Escape, '(' | ')') => State::Charset(character),
            (State::Escape, '7' | '8' | 'D' | 'E' | 'H' | 'M' | 'c' | '=' | '>') => {
                out.push('\u{1b}');
                out.push(character);
                State::Text
            }
            (State::Escape, ' '..='/') => State::Skip,
            (State::Escape | State::Skip, _) => State::Text,
            (State::Charset(which), '0' | 'A' | 'B') => {
                out.push('\u{1b}');
                out.push(which);
                out.push(character);
                State::Text
            }
            (State::Charset(_), _) => State::Text,
            (State::Control(sequence), '\u{40}'..='\u{7e}') => {
                if let Some(sequence) = sequence.filter(|sequence| draws(sequence, character)) {
                    out.push_str("\u{1b}[");
                    out.push_str(&sequence);
                    out.push(character);
                }
                State::Text
            }
            (State::Control(sequence), ' '..='?') => {
                State::Control(sequence.filter(|sequence| sequence.len() < SEQUENCE).map(|mut sequence| {
                    sequence.push(character);
                    sequence
                }))
            }
            // Controls inside of a sequence are obeyed by terminals; here they end it.
            (State::Control(_), _) => State::Text,
        };
    }
}

/// Whether a control sequence with these parameters and this last character does no more than draw.
fn draws(parameters: &str, last: char) -> bool {
    let (private, numbers) = match parameters.strip_prefix('?') {
        Some(numbers) => (true, numbers),
        None => (false, parameters),
    };
    if parameters == "!" {
        return last == 'p';
    }
    let mut all = numbers.split([';', ':']);
    let number = |number: &str| -> Option<u32> {
        if number.is_empty() { Some(0) } else { number.parse().ok().filter(|number| *number <= NUMBER) }
    };
    if !numbers.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':')) {
        return false;
    }
    let mut listed = |known: &[u32]| all.all(|one| number(one).is_some_and(|one| known.contains(&one)));
    match (private, last) {
        // Not among them: what has the terminal report the mouse, the focus or what is pasted.
        (true, 'h' | 'l') => listed(&[5, 6, 7, 12, 25, 47, 1047, 1048, 1049, 2026]),
        (false, 'h' | 'l') => listed(&[4, 20]),
        (true, 'J' | 'K') => listed(&[0, 1, 2]),
        (
            false,
            '@'
            | 'A'..='M'
            | 'P'
            | 'S'
            | 'T'
            | 'X'
            | 'Z'
            | '`'
            | 'a'
            | 'b'
            | 'd'
            | 'e'
            | 'f'
            | 'g'
            | 'm'
            | 'r',
        ) => all.all(|one| number(one).is_some()),
        (false, 's' | 'u') => numbers.is_empty(),
        _ => false,
    }
}

/// Text without any control sequences, for looking for words in it.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters.next_if(|next| matches!(next, ' '..='?')).is_some() {}
                } else if characters.next_if(|next| matches!(next, '(' | ')')).is_none() {
                    characters.next();
                    continue;
                }
                characters.next();
            }
            '\n' | '\t' => plain.push(character),
            character if !character.is_control() => plain.push(character),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tame(text: &str) -> String {
        Tame::default().take(text)
    }

    #[test]
    fn what_draws_is_left_as_it_is() {
        for text in [
            "plain text, ü 你好 🦀\r\n\ttab\u{8}",
            "\u{1b}[1;31mred\u{1b}[0m \u{1b}[38;2;1;2;3mrgb\u{1b}[m \u{1b}[4:3m",
            "\u{1b}[2J\u{1b}[H\u{1b}[10;20Hthere\u{1b}[K\u{1b}[1A\u{1b}[3L",
            "\u{1b}[?1049h\u{1b}[?25l\u{1b}[1;24r\u{1b}7\u{1b}8\u{1b}[?1049l\u{1b}(0lqk\u{1b}(B\u{1b}c\u{1b}M",
        ] {
            assert_eq!(tame(text), text);
        }
    }

    #[test]
    fn what_does_more_than_draw_is_taken_out() {
        for (text, left) in [
            ("a\u{1b}]0;owned\u{7}b", "ab"),
            ("a\u{1b}]52;c;cm0gLXJmIC8=\u{1b}\\b", "ab"),
            ("a\u{9d}52;c;x\u{9c}b", "ab"),
            ("a\u{1b}]8;;http://evil\u{7}link\u{1b}]8;;\u{7}b", "alinkb"),
            ("a\u{1b}P$qm\u{1b}\\b", "ab"),
            ("a\u{1b}_Gf=100;AAAA\u{1b}\\b", "ab"),
            ("a\u{1b}[c\u{1b}[>c\u{1b}[6n\u{1b}[21t\u{1b}[5i\u{1b}[x\u{5}b", "ab"),
            ("a\u{9b}6nb\u{9b}31mc", "ab\u{1b}[31mc"),
            ("a\u{1b}[?1000h\u{1b}[?2004h\u{1b}[?25;1003hb", "ab"),
            ("a\u{1b}[99999999999;1Hb\u{1b}[8;65535;65535tc", "abc"),
            ("a\u{1b}[1 qb\u{1b}[>1uc\u{1b}[!pd", "abc\u{1b}[!pd"),
            ("a\u{7}\u{0}\u{7f}b", "ab"),
            ("a\u{1b}#8b\u{1b}%Gc\u{1b}Zd", "abcd"),
            ("a\u{1b}]0;never ends", "a"),
            ("a\u{1b}]0;x\u{1b}[31mred", "a\u{1b}[31mred"),
        ] {
            assert_eq!(tame(text), left, "{text:?}");
        }
        assert_eq!(tame(&format!("a\u{1b}[{}mb", "1;".repeat(1000))), "ab");
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let (mut utf8, mut tame) = (Utf8::default(), Tame::default());
        let mut shown = String::new();
        for byte in "ü\u{1b}]0;owned\u{7}\u{1b}[31m你".bytes().chain([0xff, b'x']) {
            shown.push_str(&tame.take(&utf8.take(&[byte])));
        }
        assert_eq!(shown, "ü\u{1b}[31m你\u{fffd}x");
    }

    #[test]
    fn plain_text_has_no_sequences() {
        assert_eq!(plain("\u{1b}[1;31mred\u{1b}[0m\u{1b}(B\u{1b}7 x\r\ny"), "red x\ny");
    }

    proptest! {
        #[test]
        fn no_bytes_get_more_than_drawing_through(pieces in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![
                any::<u8>(),
                proptest::sample::select(b"\x1b\x1b\x1b[]P_^X;:0123456789?>!hlmntcq\x07\\\xc2\x9b\x9d\x90".to_vec()),
            ], 0..20), 0..20)) {
            let (mut utf8, mut tame) = (Utf8::default(), Tame::default());
            let shown: String = pieces.iter().map(|piece| tame.take(&utf8.take(piece))).collect();
            // Only ESC, and after it only what is known.
            let mut rest = shown.as_str();
            while let Some((_, after)) = rest.split_once('\u{1b}') {
                let first = after.chars().next();
                prop_assert!(first.is_some_and(|c| "[()78DEHMc=>".contains(c)), "an escape gets through");
                rest = after;
            }
            let control = |c: char| c.is_control() && !"\u{1b}\r\n\t\u{8}\u{b}\u{c}\u{e}\u{f}".contains(c);
            prop_assert!(!shown.contains(control), "a control gets through");
            // And nothing more comes out of it when it is done again.
            prop_assert_eq!(Tame::default().take(&shown), shown.clone());
            let plain = plain(&shown);
            prop_assert!(!plain.contains(char::from(0x1b)), "an escape is left");
        }
    }
}
