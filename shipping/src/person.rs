//! Whether an account of the collector's and a user of a host may be one person.
//!
//! All of it only ever keeps somebody from deciding, never lets them: it may take two people for one, which costs
//! one of them an answer, and must not miss that two names are one person's. But it must not take a whole
//! directory for one person either: nobody could approve then.

use unicode_normalization::UnicodeNormalization as _;

/// Claims of a token that may name the person, verified or not: enough to keep somebody from deciding, never to
/// let them. Microsoft Entra ID has another subject for each application, and verifies no addresses.
pub const NAME_CLAIMS: &[&str] =
    &["email", "preferred_username", "upn", "unique_name", "name", "oid", "user_email", "user_login"];

/// Characters of a name that are looked at, and parts of it.
const MAX_NAME: (usize, usize) = (1024, 16);
/// Characters of what a provider calls somebody that are in their account's name.
const MAX_CALLED: usize = 64;

/// What one name may mean, as somebody has written it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name {
    /// All of it.
    whole: String,
    /// Who it names, most likely.
    owner: String,
    /// What else of it may be who it names, and may be what it shares with other people's names: a directory
    /// (`CORP+alice`), a role (`alice/admin@REALM`), a tag (`alice+ops@corp.example`).
    others: Vec<String>,
}

impl Name {
    /// Reads `Alice`, `CORP\alice`, `CORP+alice` and `CORP/alice` (Samba's winbind), `alice@corp.example`,
    /// `alice+ops@corp.example` (RFC 5233) and `alice/admin@REALM` (Kerberos), in whichever case and Unicode form.
    pub fn of(written: &str) -> Self {
        let whole = plain(written);
        // A directory before a backslash is one, whatever else there is.
        let name = whole.rsplit('\\').next().unwrap_or_default();
        let (local, address) = match name.split_once('@') {
            Some((local, _)) => (local, true),
            None => (name, false),
        };
        let mut parts: Vec<&str> =
            local.split(['+', '/']).map(trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            return Self::default();
        }
        parts.truncate(MAX_NAME.1);
        // In an address a tag stands behind the name, else a directory before it.
        let owner = if address { parts.remove(0) } else { parts.pop().unwrap_or_default() };
        let (owner, others) = (owner.to_owned(), parts.into_iter().map(str::to_owned).collect());
        Self { whole: trim(&whole).to_owned(), owner, others }
    }

    /// Reads a name that is shown to people (`Bob Jones / Contoso`): what looks like parts of a login is none in it, and
    /// may be what a whole company has in its names.
    pub fn shown(written: &str) -> Self {
        let name = Self::of(written);
        let one = name.whole.contains(char::is_whitespace)
            || !name.whole.contains('@') && name.whole.contains(['+', '/']);
        if one && !name.is_empty() {
            return Self { owner: name.whole.clone(), whole: name.whole, others: Vec::new() };
        }
        name
    }

    /// Reads what a claim of [`NAME_CLAIMS`] says.
    pub fn claimed(claim: &str, written: &str) -> Self {
        if claim == "name" { Self::shown(written) } else { Self::of(written) }
    }

    /// It names nobody.
    pub fn is_empty(&self) -> bool {
        self.owner.is_empty()
    }

    /// The two may be names of one person. What may be a directory or a role in both is not enough: everybody has
    /// that.
    pub fn may_be(&self, other: &Self) -> bool {
        let names = |one: &Self, two: &Self| {
            !one.is_empty() && (one.owner == two.owner || two.others.contains(&one.owner))
        };
        !self.is_empty() && self.whole == other.whole || names(self, other) || names(other, self)
    }
}

/// A name as it is compared: Unicode's compatibility form (NFKC, UAX 15) without what is not seen, in lower case.
/// Letters that only look alike (Cyrillic and Latin `a`) stay what they are.
fn plain(written: &str) -> String {
    let seen = |char: &char| !is_unseen(*char) && !char.is_control();
    let name = written.chars().take(MAX_NAME.0).nfkc().filter(seen);
    // By way of upper case: `ß` and `SS`, `ſ` and `s`, `ı` and `I` are one then.
    let name: String = name.flat_map(char::to_uppercase).flat_map(char::to_lowercase).nfkc().collect();
    // Lower case of `İ`.
    name.replace("i\u{307}", "i")
}

/// What takes no place on a screen: marks of direction, joiners, variation selectors, tags, soft hyphens.
fn is_unseen(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Without spaces around it, and the quotes of an address's local part (RFC 5322).
fn trim(part: &str) -> &str {
    part.trim_matches(|char: char| char.is_whitespace() || char == '"')
}

/// The two names, however they are written, may be one person's.
pub fn may_be_one(one: &str, other: &str) -> bool {
    Name::of(one).may_be(&Name::of(other))
}

/// Names that whoever has an account may have.
#[derive(Debug, Clone, Default)]
pub struct Names {
    written: Vec<Name>,
    /// What a provider may have called them whose word for them is not known. It is compared with names as they are
    /// written, and never with another guess: two of them have what many share in common.
    guessed: Option<Name>,
}

impl Names {
    /// The account's own name (what a provider's account is called stands behind the provider's name and a colon,
    /// with `_` in the place of what an account's name cannot have, and what tells two of one name apart behind a
    /// `~`), its e-mail address, the login names that were set for it, and what the provider called its owner when the
    /// account was made; empty when that is not known.
    pub fn of(account: &str, email: &str, logins: &[String], provided: &str) -> Self {
        let called = account.rsplit(':').next().unwrap_or_default();
        let called = called.split('~').next().unwrap_or_default();
        // It may have been a `\`, `+` or `/`, unless it is known what it was.
        let unknown = account.contains(':') && called.contains('_') && !is_made_of(called, provided);
        let guessed = unknown.then(|| Name::of(&called.replace('_', "+"))).filter(|name| !name.is_empty());
        let all = [called, email, provided].into_iter().chain(logins.iter().map(String::as_str));
        Self { written: all.map(Name::of).filter(|name| !name.is_empty()).collect(), guessed }
    }

    /// A name, however it is written, may be theirs.
    pub fn hold(&self, name: &str) -> bool {
        self.may_be(&Name::of(name))
    }

    /// The same of one that was read.
    pub fn may_be(&self, name: &Name) -> bool {
        self.written.iter().chain(&self.guessed).any(|own| own.may_be(name))
    }

    /// The two may be one person's.
    pub fn meet(&self, other: &Self) -> bool {
        self.written.iter().any(|own| other.may_be(own))
            || self.guessed.iter().any(|own| other.written.iter().any(|name| own.may_be(name)))
    }
}

/// Whether an account's name was made of what a provider called its owner, with `_` for what it cannot have.
fn is_made_of(called: &str, provided: &str) -> bool {
    let provided = || provided.trim().chars().take(MAX_CALLED);
    called.chars().count() == provided().count()
        && called.chars().zip(provided()).all(|(char, was)| char == '_' || char == was)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_person_is_one_however_they_are_written() {
        for written in [
            "alice",
            " ALICE ",
            "CORP\\Alice",
            "CORP+alice",
            "corp/alice",
            "CORP.EXAMPLE\\alice",
            "alice@corp.example",
            "alice+ops@corp.example",
            "Alice+ops+more@Other.example",
            "alice/admin@CORP.EXAMPLE",
            "\"alice\"@corp.example",
            // Full-width, mathematical, with what is not seen in between, a Kelvin sign would be k.
            "ａｌｉｃｅ",
            "𝒶𝓁𝒾𝒸ℯ",
            "al\u{200b}ic\u{ad}e\u{feff}",
            "\u{202e}alice",
            "AL\u{130}CE",
            "al\u{131}ce",
        ] {
            assert!(may_be_one(written, "alice"), "{written}");
            assert!(may_be_one("alice@example.org", written), "{written}");
            assert!(!may_be_one(written, "bob") && !may_be_one(written, "CORP+bob"), "{written}");
        }
        assert!(may_be_one("STRASSE", "straße") && may_be_one("Jose\u{301}", "josé"));
        assert!(may_be_one("alice+ops", "alice"), "which of the two is the name cannot be known");
    }

    #[test]
    fn what_many_have_in_common_makes_nobody_one() {
        for (one, other) in [
            ("CORP+alice", "CORP+bob"),
            ("CORP/alice", "CORP/bob"),
            ("CORP\\alice", "CORP\\bob"),
            ("alice+ops@corp.example", "bob+ops@corp.example"),
            ("alice/admin@CORP.EXAMPLE", "bob/admin@CORP.EXAMPLE"),
            ("alice@corp.example", "bob@corp.example"),
            ("alice.smith", "alice.jones"),
            ("jose", "josé"),
            ("а\u{43b}ice", "alice"),
        ] {
            assert!(!may_be_one(one, other), "{one} {other}");
        }
        for nobody in ["", " ", "@", "@corp.example", "CORP\\", "+", "+/+@x", "\u{200b}", "\"\"@x"] {
            assert!(Name::of(nobody).is_empty(), "{nobody:?}");
            assert!(!may_be_one(nobody, nobody) && !may_be_one(nobody, "alice"), "{nobody:?}");
        }
    }

    #[test]
    fn accounts_are_called_by_all_of_their_names() {
        let logins = ["CORP+anna-adm".to_owned(), String::new()];
        let names = Names::of("okta:anna~2", "Anna.Smith+work@corp.example", &logins, "");
        for own in ["anna", "ANNA.SMITH", "anna-adm", "EU\\anna"] {
            assert!(names.hold(own), "{own}");
        }
        for other in ["okta", "", "2", "work2", "smith", "corp2"] {
            assert!(!names.hold(other), "{other}");
        }
        assert!(names.meet(&Names::of("x", "anna.smith@home.example", &[], "")));
        let bob = Names::of("okta:bob~2", "bob@corp.example", &["CORP+bob-adm".to_owned()], "");
        assert!(!names.meet(&bob) && !bob.meet(&names));
        let nobody = || Names::of("", "", &[], "");
        assert!(!nobody().meet(&nobody()));
        // As providers' accounts of `CORP\anna` and `anna+ops@corp.example` are called here.
        for called in ["okta:CORP_anna", "okta:anna_ops@corp.example"] {
            assert!(Names::of(called, "", &[], "").hold("anna"), "{called}");
            assert!(!Names::of(called, "", &[], "").hold("CORP+bob"), "{called}");
        }
        assert!(
            !Names::of("CORP_anna", "", &[], "").hold("anna"),
            "an account of the collector's own is what it is"
        );
    }

    #[test]
    fn what_providers_accounts_share_makes_them_no_one() {
        let of = |account: &str| Names::of(account, "", &[], "");
        for (one, two) in [
            ("okta:anna_adm", "okta:bob_adm"),
            ("okta:john_smith", "okta:adam_smith"),
            ("okta:john_smith", "okta:john_brown"),
            ("okta:CORP_anna", "okta:CORP_bob"),
            ("okta:adm_anna@corp.example", "okta:adm_bob@corp.example"),
        ] {
            assert!(!of(one).meet(&of(two)) && !of(two).meet(&of(one)), "{one} {two}");
        }
        // With a name as somebody has written it, each part of a guess may be who it is.
        for (one, two) in [
            ("okta:CORP_anna", "anna"),
            ("okta:CORP_anna", "entra:anna"),
            ("okta:anna_adm@corp.example", "anna"),
            ("okta:CORP_anna", "entra:CORP_anna"),
        ] {
            assert!(of(one).meet(&of(two)) && of(two).meet(&of(one)), "{one} {two}");
        }
    }

    #[test]
    fn what_the_provider_called_them_counts() {
        let called = |account: &str, provided: &str| Names::of(account, "", &[], provided);
        let muller = called("okta:m_ller", "müller");
        assert!(muller.hold("müller") && muller.hold("CORP\\MÜLLER") && muller.hold("m_ller"));
        assert!(!muller.hold("ller") && called("okta:m_ller", "").hold("ller"), "it is known what it was");
        assert!(muller.meet(&called("entra:x", "müller")));
        let adm = called("okta:anna_adm", "anna_adm");
        assert!(!adm.hold("adm") && adm.hold("anna_adm") && !adm.meet(&called("okta:bob_adm", "")));
        // Who calls themselves otherwise is no other person for it.
        assert!(
            called("okta:CORP_anna", "zzz").hold("anna") && called("okta:CORP_anna", "zzz_anna").hold("anna")
        );
    }

    #[test]
    fn names_that_are_shown_are_whole() {
        for (one, two) in [
            ("Bob Jones / Contoso", "Alice Smith / Contoso"),
            ("Bob+External", "Alice+External"),
            ("Bob Jones (IT)/EU", "Alice Smith (IT)/EU"),
        ] {
            let (one, two) = (Name::claimed("name", one), Name::claimed("name", two));
            assert!(!one.may_be(&two) && !two.may_be(&one) && !one.may_be(&Name::of("contoso")));
            assert!(one.may_be(&one.clone()));
        }
        assert!(Name::shown(" bob  jones / Contoso").may_be(&Name::of("BOB  Jones / contoso ")));
        // What may be a login is read as one.
        for login in ["Alice", "CORP\\alice", "alice+x@corp.example"] {
            assert!(Name::shown(login).may_be(&Name::of("alice")), "{login}");
        }
        assert!(Name::shown("CORP+alice").may_be(&Name::of("corp+Alice")));
        assert!(Name::shown(" / ").is_empty() && Name::shown("\u{200b}").is_empty());
    }

    /// A part of a name, of letters whose cases are single ones.
    const PART: &str = "[a-z][a-z0-9._-]{0,11}";

    proptest! {
        #[test]
        fn a_name_is_its_owners_in_all_of_its_forms(name in PART, other in PART, domain in PART) {
            let forms = [
                name.clone(),
                name.to_uppercase(),
                format!("{domain}\\{name}"),
                format!("{domain}+{name}"),
                format!("{domain}/{name}"),
                format!("{name}@{domain}"),
                format!("{name}+{other}@{domain}"),
                format!("{name}/{other}@{domain}"),
            ];
            for one in &forms {
                for two in &forms {
                    prop_assert!(may_be_one(one, two), "{one} {two}");
                }
            }
        }

        #[test]
        fn two_names_of_a_directory_are_two(one in PART, other in PART, domain in PART) {
            prop_assume!(one != other && one != domain && other != domain);
            for (start, separator, end) in [(&*domain, '\\', ""), (&domain, '+', ""), (&domain, '/', "")] {
                let written = |name: &str| format!("{start}{separator}{name}{end}");
                prop_assert!(!may_be_one(&written(&one), &written(&other)));
                prop_assert!(!may_be_one(&written(&one), &other));
            }
            let address = |name: &str| format!("{name}+{domain}@{domain}");
            prop_assert!(!may_be_one(&address(&one), &address(&other)));
        }

        #[test]
        fn anything_is_what_it_is(one in any::<String>(), other in any::<String>()) {
            // Both ways the same, and itself where it names anybody.
            prop_assert_eq!(may_be_one(&one, &other), may_be_one(&other, &one));
            prop_assert_eq!(may_be_one(&one, &one), !Name::of(&one).is_empty());
            let twice: String = plain(&plain(&one));
            prop_assert_eq!(twice, plain(&one));
        }
    }
}
