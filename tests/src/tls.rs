//! Throwaway authorities and certificates, and a server that shows one of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::postgres::{Auth, DATABASE, Options, PASSWORD, USER};
use crate::process::{Finished, LIMIT, finish};
use crate::{Postgres, Stage};

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, and what leads to its authority.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// SHA-256 over its public key, in hexadecimal, as OpenSSL works it out.
    pub pin: String,
}

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What is special about a certificate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Special {
    /// It expired an hour ago.
    pub expired: bool,
    /// Its serial number; some other when 0.
    pub serial: u64,
    /// It is for clients.
    pub client: bool,
}

/// A time as certificates have it, of seconds since the Unix epoch.
macro_rules! time {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

const DAY: u64 = 24 * 3600;

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, DAY, DAY);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for these names; the first is its common name too.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn issue(&self, names: &[&str], special: Special) -> Result<Pair> {
        let key = KeyPair::generate()?;
        let params = params(names, special)?;
        pair(&params.signed_by(&key, &self.issuer)?.pem(), &key)
    }

    /// A list that revokes the certificates of these serial numbers.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn revoke(&self, serials: &[u64]) -> Result<String> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: time!(now() - DAY),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: time!(now() - DAY),
            next_update: time!(now() + DAY),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// A certificate that is signed by its own key.
///
/// # Errors
/// It cannot be made.
pub fn self_signed(names: &[&str]) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let params = params(names, Special::default())?;
    pair(&params.self_signed(&key)?.pem(), &key)
}

fn params(names: &[&str], special: Special) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(if special.client { Vec::new() } else { names.clone() })?;
    if let Some(first) = names.first() {
        params.distinguished_name.push(DnType::CommonName, first);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if special.client {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    if special.serial > 0 {
        params.serial_number = Some(SerialNumber::from(special.serial));
    }
    if special.expired {
        params.not_before = time!(now() - DAY);
        params.not_after = time!(now() - 3600);
    } else {
        valid(&mut params, DAY, DAY);
    }
    Ok(params)
}

fn pair(certificate: &str, key: &KeyPair) -> Result<Pair> {
    let directory = crate::temporary_directory("pin")?;
    let file = directory.path().join("public.pem");
    std::fs::write(&file, key.public_key_pem())?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "openssl pkey -pubin -in \"$0\" -outform DER | openssl dgst -sha256 -r"]).arg(file);
    let hash = crate::process::finish(&mut command, "", crate::process::LIMIT)?;
    let pin = hash.stdout.split(' ').next().unwrap_or_default().to_owned();
    Ok(Pair { certificate: certificate.to_owned(), key: key.serialize_pem(), pin })
}

fn valid(params: &mut CertificateParams, before: u64, after: u64) {
    params.not_before = time!(now() - before);
    params.not_after = time!(now() + after);
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A server with TLS, its authority, and an agent.
#[derive(Debug)]
pub struct Bed {
    /// Server, agent and the cgroup of clients.
    pub stage: Stage,
    /// The server's authority.
    pub authority: Authority,
    /// `root.crt` (the authority), `server.crt`, `client.crt` and `client.key` (for the name `agent`), and
    /// `revoked.crl` (serial number 77).
    pub files: TempDir,
}

/// What stands in the agent's configuration under `tls:` for it to trust the server's authority.
pub const TRUSTING: &str = "  roots: [FILES/root.crt]\n";

impl Bed {
    /// A server for `localhost` and 127.0.0.1, and an agent that trusts its authority.
    ///
    /// # Errors
    /// Server or agent does not start.
    pub fn start(auth: Auth) -> Result<Self> {
        Self::with(auth, TRUSTING, "rules: []", &Options::default(), |authority| {
            authority.issue(&["localhost", "127.0.0.1"], Special::default())
        })
    }

    /// The same with the agent's configuration under `tls:` (in it FILES stands for the directory of files,
    /// PORT for the server's port, PIN for its key), its policy from `rules:` on, and the server's
    /// certificate.
    ///
    /// # Errors
    /// Server or agent does not start.
    pub fn with(
        auth: Auth,
        tls: &str,
        rules: &str,
        options: &Options<'_>,
        issue: impl FnOnce(&Authority) -> Result<Pair>,
    ) -> Result<Self> {
        let authority = Authority::new("The company's own")?;
        let files = crate::temporary_directory("tls")?;
        let pair = issue(&authority)?;
        let client = authority.issue(&["agent"], Special { client: true, ..Special::default() })?;
        let revoked = authority.revoke(&[77])?;
        for (name, content) in [
            ("root.crt", authority.pem()),
            ("server.crt", &pair.certificate),
            ("client.crt", &client.certificate),
            ("client.key", &client.key),
            ("revoked.crl", &revoked),
        ] {
            let path = files.path().join(name);
            std::fs::write(&path, content)?;
            let mode = if name.ends_with("key") { 0o600 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        let postgres = Postgres::start_as(
            auth,
            &Options {
                certificate: Some(&pair),
                client_authority: Some(authority.pem()),
                settings: options.settings,
                hba: options.hba,
                programs: options.programs.clone(),
            },
        )?;
        let tls = tls
            .replace("FILES", &files.path().to_string_lossy())
            .replace("PORT", &postgres.port().to_string())
            .replace("PIN", &pair.pin);
        let stage = Stage::start_with(postgres, rules, &format!("tls:\n  system_roots: false\n{tls}"))?;
        Ok(Self { stage, authority, files })
    }

    /// Has the policy say what becomes of TLS.
    ///
    /// # Errors
    /// The policy cannot be written or is not taken.
    pub fn treat_tls(&self, action: &str) -> Result<()> {
        let policy = format!(
            "version: 1\nprocesses:\n  - cgroup: {}\ndestinations:\n  - {{port: {}, protocol: postgres, tls: {action}}}\n",
            self.stage.clients.below_mount().display(),
            self.stage.postgres.port()
        );
        self.stage.agent.write_policy("50-test.yaml", &policy)?;
        let reloaded = self.stage.agent.reload()?;
        anyhow::ensure!(reloaded.success(), "{}", reloaded.both());
        Ok(())
    }

    /// The host authority's certificate, as clients get at it.
    pub fn host_authority(&self) -> PathBuf {
        self.stage.agent.run().join("authority.pem")
    }

    /// psql with these connection settings, designated. It prints `in by` and the version of TLS that the
    /// server has on the connection, if it has TLS.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn psql(&self, settings: &str) -> Result<Finished> {
        let sql = "SELECT 'in by ' || coalesce(version, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid();";
        self.psql_of(settings, sql)
    }

    /// The same with other SQL.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn psql_of(&self, settings: &str, sql: &str) -> Result<Finished> {
        let postgres = &self.stage.postgres;
        let mut command = self.stage.clients.command("psql");
        let target = format!(
            "host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname={DATABASE} {settings}",
            postgres.port()
        );
        command.args(["-X", "-A", "-t", "-q", &target]).env_remove("PGSSLMODE");
        finish(&mut command, sql, LIMIT)
    }

    /// A Python script as a designated process, libpq's environment set. `ROOT` is the file of the host's
    /// authority.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn python(&self, script: &str) -> Result<Finished> {
        let mut command = Client::Python.command(&self.stage.postgres, Some(&self.stage.clients));
        command.env("ROOT", self.host_authority());
        finish(&mut command, script, 2 * LIMIT)
    }

    /// The last login that was recorded.
    ///
    /// # Errors
    /// There is none.
    pub fn login(&self) -> Result<Value> {
        let events = self.stage.agent.events()?;
        events.into_iter().rfind(|event| event["event"] == "login").context("no login was recorded")
    }

    /// All that was recorded, as text.
    ///
    /// # Errors
    /// The export fails.
    pub fn events(&self) -> Result<String> {
        Ok(serde_json::to_string(&self.stage.agent.events()?)?)
    }
}
