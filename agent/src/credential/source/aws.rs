//! AWS Secrets Manager.

use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::http::{Server, shown, text};
use super::json::SecretJson;
use super::sigv4::{Keys, authorization};
use super::{Fetched, SourceError, Validity, password, read_text};
use crate::credential::config::{AwsConfig, AwsKeys};

const METADATA: &str = "169.254.169.254";
const METADATA_V6: &str = "[fd00:ec2::254]";

/// A secret in AWS Secrets Manager.
#[derive(Debug)]
pub(in super::super) struct Aws {
    config: AwsConfig,
    server: Server,
    metadata: Option<Server>,
}

impl Aws {
    pub(super) fn new(config: &AwsConfig) -> Result<Self, SourceError> {
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain(&config.region) {
            return Err(SourceError::forbidden(
                format!("{:?} is no AWS region", config.region),
                "write it as in `eu-central-1`",
            ));
        }
        if config.secret.is_empty() || config.refresh_seconds == 0 {
            return Err(SourceError::forbidden(
                "the AWS secret has no name, or `refresh_seconds: 0`",
                "name it, or its ARN, under `secret`",
            ));
        }
        let endpoint = config.endpoint.clone();
        let endpoint =
            endpoint.unwrap_or_else(|| format!("https://secretsmanager.{}.amazonaws.com", config.region));
        let metadata = match &config.keys {
            AwsKeys::File(_) => None,
            AwsKeys::Instance(address) => Some(Server::new(address, None, &[METADATA, METADATA_V6])?),
        };
        let server = Server::new(&endpoint, config.ca.as_deref(), &[])?;
        Ok(Self { config: config.clone(), server, metadata })
    }

    /// Which secret, to be shown.
    pub(super) fn place(&self) -> String {
        format!("{} in {}", self.config.secret, self.config.region)
    }

    pub(super) fn fetch(&self) -> Result<Fetched, SourceError> {
        let keys = match (&self.config.keys, &self.metadata) {
            (AwsKeys::File(path), _) => from_file(path)?,
            (AwsKeys::Instance(_), Some(metadata)) => from_instance(metadata)?,
            (AwsKeys::Instance(_), None) => return Err(self.refused("no metadata service is known")),
        };
        let body = serde_json::json!({
            "SecretId": self.config.secret,
            "VersionStage": self.config.version_stage.as_deref().unwrap_or("AWSCURRENT"),
        })
        .to_string();
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut headers = vec![
            ("host", self.server.authority()),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-date", time.as_str()),
            ("x-amz-target", "secretsmanager.GetSecretValue"),
        ];
        if let Some(token) = &keys.session_token {
            headers.push(("x-amz-security-token", token.as_str()));
        }
        let signed = authorization(
            &keys,
            &self.config.region,
            "secretsmanager",
            &time,
            "POST",
            &headers,
            body.as_bytes(),
        );
        headers.push(("authorization", &signed));
        let answer = self.server.send("POST", "/", &headers, Some(body.as_bytes()))?;
        let json = answer.json();
        let value = json.as_ref().map(SecretJson::value);
        if answer.status != 200 {
            let given = |field| value.and_then(|value| text(value, field)).unwrap_or_default();
            let kind = given("__type").rsplit('#').next().unwrap_or_default().to_owned();
            let message = if given("message").is_empty() { given("Message") } else { given("message") };
            return Err(self.refused(&shown(&format!("status {} {kind}: {message}", answer.status))));
        }
        let secret = value
            .and_then(|value| text(value, "SecretString"))
            .ok_or_else(|| self.refused("it has no SecretString"))?;
        self.read(secret)
    }

    fn read(&self, secret: &str) -> Result<Fetched, SourceError> {
        let whence = format!("the secret {}", self.place());
        let validity = Validity::refreshed_after(Duration::from_secs(self.config.refresh_seconds));
        if self.config.field.is_none() && self.config.user_field.is_none() {
            return Ok(Fetched { user: None, password: password(secret.as_bytes(), &whence)?, validity });
        }
        let json = SecretJson::parse(secret.as_bytes())
            .ok_or_else(|| self.refused("it is not JSON, but `field` asks for a part of it"))?;
        let field = |name: &str| {
            text(json.value(), name).ok_or_else(|| self.refused(&format!("it has no text field {name:?}")))
        };
        let user = self.config.user_field.as_deref().map(field).transpose()?.map(str::to_owned);
        let given = field(self.config.field.as_deref().unwrap_or("password"))?;
        Ok(Fetched { user, password: password(given.as_bytes(), &whence)?, validity })
    }

    fn refused(&self, why: &str) -> SourceError {
        SourceError::new(
            format!("AWS Secrets Manager does not give {}: {why}", self.place()),
            "see the secret's name and region, and that the agent's keys may secretsmanager:GetSecretValue on it",
        )
    }
}

/// Keys of the default section of a file as the AWS command line has it.
fn from_file(path: &Path) -> Result<Keys, SourceError> {
    let content = read_text(path)?;
    let mut within = true;
    let (mut id, mut secret, mut token) = (None, None, None);
    for line in content.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            within = section.trim() == "default";
        }
        if let (true, Some((name, value))) = (within, line.split_once('=')) {
            let value = Some(Zeroizing::new(value.trim().to_owned()));
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => {
            Ok(Keys { access_key_id: id.to_string(), secret_access_key: secret, session_token: token })
        }
        _ => Err(SourceError::new(
            format!("{} holds no AWS keys in its [default] section", path.display()),
            "write lines `aws_access_key_id = …` and `aws_secret_access_key = …`",
        )),
    }
}

/// Keys of the instance's role, by version 2 of the metadata service.
fn from_instance(metadata: &Server) -> Result<Keys, SourceError> {
    const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
    let refused = |what: &str, status: u16| {
        SourceError::new(
            format!(
                "the instance metadata service at {} gives no {what} (status {status})",
                metadata.address()
            ),
            "give the instance a role, and see that it may use the metadata service",
        )
    };
    let answer = metadata.send(
        "PUT",
        "/latest/api/token",
        &[("x-aws-ec2-metadata-token-ttl-seconds", "60")],
        Some(b""),
    )?;
    let token =
        answer.text().filter(|_| answer.status == 200).ok_or_else(|| refused("token", answer.status))?;
    let headers = [("x-aws-ec2-metadata-token", token)];
    let role = metadata.send("GET", ROLE, &headers, None)?;
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
    };
    let name = role.text().and_then(|names| names.lines().next());
    let name =
        name.filter(|name| role.status == 200 && plain(name)).ok_or_else(|| refused("role", role.status))?;
    let answer = metadata.send("GET", &format!("{ROLE}{name}"), &headers, None)?;
    let json =
        answer.json().filter(|_| answer.status == 200).ok_or_else(|| refused("keys", answer.status))?;
    let field = |name: &str| {
        text(json.value(), name)
            .map(|value| Zeroizing::new(value.to_owned()))
            .ok_or_else(|| refused("keys", answer.status))
    };
    Ok(Keys {
        access_key_id: field("AccessKeyId")?.to_string(),
        secret_access_key: field("SecretAccessKey")?,
        session_token: Some(field("Token")?),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(field: Option<&str>) -> AwsConfig {
        AwsConfig {
            secret: "shop/app".into(),
            region: "eu-central-1".into(),
            field: field.map(str::to_owned),
            user_field: field.map(|_| "username".to_owned()),
            version_stage: None,
            keys: AwsKeys::File("/keys".into()),
            endpoint: None,
            ca: None,
            refresh_seconds: 60,
        }
    }

    #[test]
    fn a_secret_is_the_password_or_holds_it() {
        let whole = Aws::new(&config(None)).unwrap().read("{\"a\":1}").unwrap();
        assert_eq!(whole.password.expose(), b"{\"a\":1}");
        let aws = Aws::new(&config(Some("password"))).unwrap();
        let part = aws.read(r#"{"username":"u","password":"p"}"#).unwrap();
        assert_eq!((part.password.expose(), part.user.as_deref()), (&b"p"[..], Some("u")));
        for secret in ["hunter2", r#"{"username":"hunter2"}"#, r#"{"username":"u","password":7}"#] {
            let error = aws.read(secret).unwrap_err().to_string();
            assert!(error.contains("shop/app") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn keys_are_of_the_default_section() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("credentials");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            from_file(&path)
        };
        let keys = write(
            "[other]\naws_access_key_id = no\naws_secret_access_key = no\n\
             [default]\naws_access_key_id=AK\naws_secret_access_key = s/e+c=\n",
        )
        .unwrap();
        assert_eq!((&*keys.access_key_id, keys.secret_access_key.as_str()), ("AK", "s/e+c="));
        assert!(keys.session_token.is_none());
        assert!(write("[other]\naws_access_key_id = hunter2\n").is_err());
    }

    #[test]
    fn regions_and_endpoints_are_checked() {
        assert!(Aws::new(&AwsConfig { region: "eu.evil.com/".into(), ..config(None) }).is_err());
        assert!(
            Aws::new(&AwsConfig { endpoint: Some("http://aws.internal".into()), ..config(None) }).is_err()
        );
        assert!(
            Aws::new(&AwsConfig { keys: AwsKeys::Instance("http://evil.internal".into()), ..config(None) })
                .is_err()
        );
        assert!(
            Aws::new(&AwsConfig { keys: AwsKeys::Instance(format!("http://{METADATA}")), ..config(None) })
                .is_ok()
        );
    }
}
