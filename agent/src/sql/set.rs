//! SET, RESET and whatever else changes a setting.

use pg_query::NodeRef;
use pg_query::protobuf::{Node, VariableSetKind, VariableSetStmt};

use super::constant;
use super::settings;
use super::walk::{Walker, node_of};
use super::{Class, Kind};

impl Walker {
    pub(super) fn variable_set(&mut self, set: &VariableSetStmt) -> Kind {
        let kind = match set.kind() {
            VariableSetKind::VarSetMulti => Kind::SetTransaction,
            VariableSetKind::VarReset | VariableSetKind::VarResetAll => Kind::Reset,
            _ => Kind::Set,
        };
        match set.kind() {
            VariableSetKind::VarResetAll => _ = self.out.settings.insert("*".to_owned()),
            VariableSetKind::VarSetMulti => {
                if makes_writable(&set.args) {
                    let lasting = set.name.contains("SESSION");
                    let name =
                        if lasting { "default_transaction_read_only" } else { "transaction_read_only" };
                    self.out.settings.insert(name.to_owned());
                }
            }
            _ => self.variable(set),
        }
        let kind = match set.name.as_str() {
            "role" => Kind::SetRole,
            "session_authorization" => Kind::SetSessionAuthorization,
            _ => kind,
        };
        self.kind(kind)
    }

    /// A setting that a command writes for later sessions, or for a function.
    pub(super) fn configure(&mut self, set: Option<&VariableSetStmt>) {
        let Some(set) = set else { return };
        if set.kind() == VariableSetKind::VarResetAll {
            self.out.settings.insert("*".to_owned());
        } else {
            self.variable(set);
        }
    }

    pub(super) fn variable(&mut self, set: &VariableSetStmt) {
        let values: Vec<Option<String>> = set.args.iter().map(|arg| constant::setting(Some(arg))).collect();
        match set.kind() {
            VariableSetKind::VarSetValue => {
                let value = match &values[..] {
                    [Some(value)] => Some(value.as_str()),
                    _ => None,
                };
                self.setting(&set.name, value);
            }
            // What the session began with, or has already: the protocol tells both.
            _ => self.setting_name(&set.name),
        }
    }

    /// The setting `name` becomes `value`, or what the text does not tell.
    pub(super) fn setting(&mut self, name: &str, value: Option<&str>) {
        self.out.changes_lexing |= settings::setting_changes_lexing(name, value);
        self.setting_name(name);
    }

    fn setting_name(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        if settings::reaches_outside(&name) {
            self.class(Class::External);
        }
        match name.as_str() {
            "role" => _ = self.kind(Kind::SetRole),
            "session_authorization" => _ = self.kind(Kind::SetSessionAuthorization),
            _ => {}
        }
        self.out.settings.insert(name);
    }
}

/// BEGIN, SET TRANSACTION or the like with READ WRITE.
pub(super) fn makes_writable(options: &[Node]) -> bool {
    options.iter().any(|option| match node_of(Some(option)) {
        Some(NodeRef::DefElem(option)) if option.defname == "transaction_read_only" => {
            !matches!(constant::setting(option.arg.as_deref()).as_deref(), Some("1" | "true"))
        }
        _ => false,
    })
}
