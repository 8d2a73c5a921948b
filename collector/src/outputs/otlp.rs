//! OpenTelemetry logs: OTLP over HTTP, in protobuf.

use std::path::Path;

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use serde_json::Value;
use ureq::http::{HeaderName, HeaderValue, Request};

use super::config::Otlp;
use super::message::{Message, Severity};
use super::send::{Failure, later, secret_file};
use crate::http::Client;
use crate::store::now_ns;

/// Sends log records to one address.
pub(super) struct Logs {
    config: Otlp,
    collector: String,
    client: Client,
}

impl Logs {
    pub(super) fn new(config: &Otlp, collector: &str) -> anyhow::Result<Self> {
        if let Some(path) = &config.headers {
            headers(path)?;
        }
        let client = Client::new(config.ca.as_deref())?;
        Ok(Self { config: config.clone(), collector: collector.to_owned(), client })
    }

    pub(super) async fn send(&self, messages: &[&Message]) -> Result<(), Failure> {
        let wrong = |error: anyhow::Error| Failure::Later(format!("{error:#}"), None);
        let mut request = Request::post(&self.config.url).header("content-type", "application/x-protobuf");
        if let Some(path) = &self.config.headers {
            for (name, value) in headers(path).map_err(wrong)? {
                request = request.header(name, value);
            }
        }
        let request = request
            .body(export(messages, &self.collector).encode_to_vec())
            .map_err(|_| Failure::Later("otlp.url is no address that can be asked".into(), None))?;
        let answer =
            self.client.send(request).await.map_err(|error| Failure::Later(error.to_string(), None))?;
        let status = answer.status().as_u16();
        match status {
            200..=299 => match ExportLogsServiceResponse::decode(answer.body().as_slice()) {
                // It does not say which, so they are sent one by one.
                Ok(ExportLogsServiceResponse { partial_success: Some(partial) })
                    if partial.rejected_log_records > 0 =>
                {
                    Err(Failure::Refused("the receiver rejects log records".into()))
                }
                Ok(_) => Ok(()),
                Err(_) => Err(Failure::Later(
                    "the answer is none of OTLP's: otlp.url must lead to a receiver's path, such as /v1/logs"
                        .into(),
                    None,
                )),
            },
            400 | 413 | 415 | 422 => {
                Err(Failure::Refused(format!("the receiver answers with status {status}")))
            }
            _ => Err(Failure::Later(
                format!("the receiver answers with status {status}"),
                later(answer.headers()),
            )),
        }
    }
}

/// Headers in a file, `Name: value` on each line. None of it is shown: they are there for secrets.
fn headers(path: &Path) -> anyhow::Result<Vec<(HeaderName, HeaderValue)>> {
    let text = secret_file(path)?;
    let mut headers = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse().ok()?;
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        headers.push(header.ok_or_else(|| {
            anyhow::anyhow!(
                "{}: line {number} is no header, such as `Authorization: Bearer …`",
                path.display()
            )
        })?);
    }
    Ok(headers)
}

fn export(messages: &[&Message], collector: &str) -> ExportLogsServiceRequest {
    let resource = Resource {
        attributes: vec![
            text("service.name", "interlock-collector"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", collector),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "interlock".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let log_records = messages.iter().map(|message| record(message, collector)).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }];
    let logs = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn record(message: &Message, collector: &str) -> LogRecord {
    let (number, word) = match message.severity() {
        Severity::Error => (SeverityNumber::Error, "ERROR"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
        Severity::Notice => (SeverityNumber::Info2, "NOTICE"),
        Severity::Info => (SeverityNumber::Info, "INFO"),
    };
    let mut attributes = Vec::new();
    for (name, value) in message.json(collector) {
        attribute(&name, value, &mut attributes);
    }
    LogRecord {
        time_unix_nano: message.time_ns().unsigned_abs(),
        observed_time_unix_nano: now_ns().unsigned_abs(),
        severity_number: number.into(),
        severity_text: word.into(),
        body: Some(AnyValue { value: Some(Any::StringValue(message.line())) }),
        event_name: format!("interlock.{}", message.name()),
        attributes,
        ..LogRecord::default()
    }
}

/// The attributes that a field of a message becomes: by the semantic conventions where they have one.
fn attribute(name: &str, value: Value, to: &mut Vec<KeyValue>) {
    let known = match name {
        // In the record itself, or in the resource.
        "time" | "kind" | "collector" => return,
        "id" => "log.record.uid",
        "host" => "host.id",
        "host_name" => "host.name",
        "session" => "session.id",
        "text" => "db.query.text",
        "database" => "db.namespace",
        "rows" => "db.response.returned_rows",
        "sqlstate" => "db.response.status_code",
        "pid" => "process.pid",
        "user" => "process.user.name",
        "exe" => "process.executable.path",
        "command_line" => "process.command_line",
        "actor" => "user.name",
        "address" => "client.address",
        "protocol" => {
            let system = match value.as_str() {
                Some("postgres") => "postgresql",
                Some(other) => other,
                None => return,
            };
            return to.push(text("db.system.name", system));
        }
        "kinds" => {
            let kinds = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let [Value::String(only)] = kinds {
                to.push(text("db.operation.name", only));
            }
            ""
        }
        "destination" => {
            let destination = value.as_str().unwrap_or_default();
            if let Some((address, port)) = destination.rsplit_once(':')
                && let Ok(port) = port.parse::<u16>()
            {
                to.push(text("network.peer.address", address.trim_matches(['[', ']'])));
                to.push(pair("network.peer.port", Any::IntValue(port.into())));
                to.push(pair("server.port", Any::IntValue(port.into())));
                return;
            }
            ""
        }
        "host_names" => {
            let first = value.as_array().and_then(|names| names.first()).and_then(Value::as_str);
            if let Some(first) = first {
                to.push(text("server.address", first));
            }
            ""
        }
        _ => "",
    };
    let Some(value) = any(value) else { return };
    to.push(if known.is_empty() { pair(&format!("interlock.{name}"), value) } else { pair(known, value) });
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.into()))
}

/// What is null or empty is left out.
fn any(value: Value) -> Option<Any> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => Any::BoolValue(value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Any::IntValue(number),
            None => Any::DoubleValue(number.as_f64()?),
        },
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => Any::StringValue(text),
        Value::Array(values) if values.is_empty() => return None,
        Value::Array(values) => {
            let values = values.into_iter().map(|value| AnyValue { value: any(value) }).collect();
            Any::ArrayValue(ArrayValue { values })
        }
        // Of a host's event: whole, so that its depth is no matter.
        Value::Object(_) => Any::StringValue(value.to_string()),
    })
}
