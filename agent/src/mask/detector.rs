//! The detectors: what is recognised in values whatever column they stand in.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! detectors {
    ($( $(#[doc = $doc:literal])+ $variant:ident => $name:literal, )+) => {
        /// Recognises one kind of secret or personal datum in text. Each validates what it finds
        /// (check digits, ranges, structure) so that look-alikes are left alone.
        ///
        /// Policies name them in snake case: `payment_card`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Detector { $( $(#[doc = $doc])+ $variant, )+ }

        impl Detector {
            /// Every detector with what it recognises, in the order of the documentation.
            pub const ALL: &'static [(Self, &'static str)] =
                &[ $( (Self::$variant, concat!($($doc),+).trim_ascii()), )+ ];

            /// The name that policies use.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
        }
    };
}

detectors! {
    /// Payment card numbers: issuer prefix, length and Luhn digit; plain or in groups set off by
    /// spaces, dashes or dots.
    PaymentCard => "payment_card",
    /// E-mail addresses with a dotted domain.
    Email => "email",
    /// Phone numbers: E.164 with a known country code, and national forms with separators.
    Phone => "phone",
    /// IBANs: country, that country's length, mod 97.
    Iban => "iban",
    /// US social security numbers with separators, ranges that are never issued excluded.
    UsSsn => "us_ssn",
    /// All of the national numbers below. Those with a single weak check digit count here only in
    /// their usual grouped form; named on their own they count as bare digits too.
    NationalId => "national_id",
    /// Spain, DNI and NIE: check letter.
    EsNif => "es_nif",
    /// Italy, codice fiscale: structure and check letter.
    ItCodiceFiscale => "it_codice_fiscale",
    /// France, NIR (numéro de sécurité sociale): structure and mod 97 key.
    FrNir => "fr_nir",
    /// Germany, Steuer-IdNr.: digit distribution and ISO 7064 check digit.
    DeSteuerId => "de_steuer_id",
    /// United Kingdom, NHS number: mod 11 check digit.
    UkNhs => "uk_nhs",
    /// United Kingdom, National Insurance number: prefixes that are issued.
    UkNino => "uk_nino",
    /// Netherlands, burgerservicenummer: elfproef.
    NlBsn => "nl_bsn",
    /// Belgium, rijksregisternummer: birth date and mod 97.
    BeNrn => "be_nrn",
    /// Sweden, personnummer and samordningsnummer: birth date and Luhn digit.
    SePersonnummer => "se_personnummer",
    /// Finland, henkilötunnus: birth date and check character.
    FiHetu => "fi_hetu",
    /// Norway, fødselsnummer and D-number: birth date and two check digits.
    NoFodselsnummer => "no_fodselsnummer",
    /// Denmark, CPR: birth date (check digits are no longer assigned).
    DkCpr => "dk_cpr",
    /// Poland, PESEL: birth date and check digit.
    PlPesel => "pl_pesel",
    /// Portugal, NIF: prefix and mod 11 check digit.
    PtNif => "pt_nif",
    /// Romania, CNP: birth date, county and check digit.
    RoCnp => "ro_cnp",
    /// Bulgaria, EGN: birth date and check digit.
    BgEgn => "bg_egn",
    /// Czechia and Slovakia, rodné číslo: birth date and mod 11.
    CzRodneCislo => "cz_rodne_cislo",
    /// Switzerland, AHV number: 756 prefix and EAN-13 check digit.
    ChAhv => "ch_ahv",
    /// Turkey, T.C. kimlik no: two check digits.
    TrTckn => "tr_tckn",
    /// Brazil, CPF: two check digits.
    BrCpf => "br_cpf",
    /// Brazil, CNPJ: two check digits.
    BrCnpj => "br_cnpj",
    /// Chile, RUT: mod 11 check character.
    ClRut => "cl_rut",
    /// Mexico, CURP: structure, birth date and check digit.
    MxCurp => "mx_curp",
    /// India, Aadhaar: Verhoeff digit.
    InAadhaar => "in_aadhaar",
    /// India, PAN: structure with holder type.
    InPan => "in_pan",
    /// Canada, SIN: Luhn digit.
    CaSin => "ca_sin",
    /// Australia, TFN: weighted check.
    AuTfn => "au_tfn",
    /// South Africa, ID number: birth date and Luhn digit.
    ZaId => "za_id",
    /// China, resident identity number: birth date and ISO 7064 MOD 11-2 check.
    CnResidentId => "cn_resident_id",
    /// South Korea, resident registration number: birth date and check digit.
    KrRrn => "kr_rrn",
    /// IPv4 and IPv6 addresses.
    IpAddress => "ip_address",
    /// JSON Web Tokens: the header decodes to JSON with an algorithm.
    Jwt => "jwt",
    /// PEM private keys of every kind, OpenSSH and PGP included, the whole block.
    PrivateKey => "private_key",
    /// AWS access key ids.
    AwsAccessKey => "aws_access_key",
    /// AWS secret access keys, where a key name that says so precedes.
    AwsSecretKey => "aws_secret_key",
    /// GitHub tokens of every kind.
    GithubToken => "github_token",
    /// GitLab tokens of every kind.
    GitlabToken => "gitlab_token",
    /// Slack tokens and webhook addresses.
    SlackToken => "slack_token",
    /// Stripe secret and restricted keys, webhook secrets.
    StripeKey => "stripe_key",
    /// Google API keys and OAuth client secrets.
    GoogleApiKey => "google_api_key",
    /// Passwords in URLs and connection strings; the password alone is replaced.
    UrlPassword => "url_password",
}

impl Detector {
    /// The detectors that an umbrella stands for; the detector itself for all others.
    pub fn members(self) -> impl Iterator<Item = Self> {
        let umbrella = self == Self::NationalId;
        Self::ALL
            .iter()
            .map(|(detector, _)| *detector)
            .filter(move |d| if umbrella { d.is_national_id() } else { *d == self })
    }

    /// One of those that [`Detector::NationalId`] stands for.
    pub fn is_national_id(self) -> bool {
        (Self::EsNif..=Self::KrRrn).contains(&self)
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no detector's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no detector is called {name:?}; the detectors are {}", known())]
pub struct UnknownDetector {
    /// What was given.
    pub name: String,
}

fn known() -> Cow<'static, str> {
    Detector::ALL.iter().map(|(detector, _)| detector.name()).collect::<Vec<_>>().join(", ").into()
}

impl FromStr for Detector {
    type Err = UnknownDetector;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .map(|(detector, _)| *detector)
            .find(|detector| detector.name() == name)
            .ok_or_else(|| UnknownDetector { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_serde_reads() {
        for (detector, doc) in Detector::ALL {
            let json = serde_json::to_string(detector).unwrap();
            assert_eq!(json, format!("\"{detector}\""));
            assert_eq!(detector.name().parse::<Detector>(), Ok(*detector));
            assert!(!doc.is_empty());
        }
        assert!("creditcard".parse::<Detector>().unwrap_err().to_string().contains("payment_card"));
    }

    #[test]
    fn the_umbrella_holds_national_ids_alone() {
        let members: Vec<_> = Detector::NationalId.members().collect();
        assert!(members.contains(&Detector::BrCpf) && members.contains(&Detector::EsNif));
        assert!(!members.contains(&Detector::NationalId) && !members.contains(&Detector::IpAddress));
        assert_eq!(Detector::Email.members().collect::<Vec<_>>(), [Detector::Email]);
    }
}
