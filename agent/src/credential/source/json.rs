//! JSON that holds secrets.

use serde_json::Value;
use zeroize::Zeroize as _;

/// A JSON value that is overwritten when it is dropped.
pub(super) struct SecretJson(Value);

impl SecretJson {
    /// Reads it. `None` when it is no JSON; what is wrong is not told, since it would be quoted.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().map(Self)
    }

    /// The value, to look into.
    pub(super) fn value(&self) -> &Value {
        &self.0
    }
}

impl Drop for SecretJson {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
