//! Calls of functions, in whichever notation, and what becomes of their arguments.

use pg_query::NodeRef;
use pg_query::protobuf::{AIndirection, FuncCall, Node};

use super::constant;
use super::functions::{self, Runs};
use super::parser::Grammar;
use super::scope::{Lineage, Scope};
use super::walk::{Walker, node_of, qualified, string};
use super::{Column, Kind, Relation, Where};

impl Walker {
    /// `(expression).field`, `(expression).*`, `expression[1]`.
    ///
    /// A field that a value does not have is a call of the function of that name with the value.
    pub(super) fn indirection(&mut self, indirection: &AIndirection, scope: &Scope<'_>) {
        let mut fields = indirection.indirection.iter().filter_map(string);
        let arg = indirection.arg.as_deref();
        if let Some(NodeRef::ColumnRef(column)) = node_of(arg)
            && let [Some(name)] = column.fields.iter().map(string).collect::<Vec<_>>()[..]
            && let Some(Some(field)) = indirection.indirection.first().map(string)
            && let Some((found, index)) = scope.item(None, name)
        {
            fields.next();
            self.item_column(found, index, field);
        } else {
            if let (Some(field), Some(arg)) = (fields.next(), arg) {
                self.attribute(field, std::slice::from_ref(arg));
            }
            self.optional(arg, scope);
        }
        for field in fields {
            self.attribute(field, &[]);
        }
        self.list(&indirection.indirection, scope);
    }

    /// `value.name` where it may be the call `name(value)`. `args` is the value, where it is known.
    pub(super) fn attribute(&mut self, name: &str, args: &[Node]) {
        self.function(None, name);
        if functions::hands_on(name) {
            let anything = self.columns.anything();
            self.hands_on(&anything);
        }
        let runs = functions::runs(name, 1);
        if runs != Runs::Nothing {
            self.runs(runs, args);
        }
    }

    /// Values of these columns are left where a later statement, session or server finds them.
    fn hands_on(&mut self, carried: &Lineage) {
        self.out.hands_on = true;
        let columns = carried.columns.iter().filter_map(|number| self.columns.get(*number).cloned());
        self.out.handed_on.extend(columns);
    }

    pub(super) fn call(&mut self, call: &FuncCall, scope: &Scope<'_>) {
        let (schema, name) = qualified(&call.funcname);
        self.function(schema, name);
        if functions::hands_on(name) {
            let outer = std::mem::take(&mut self.flow);
            self.walk_children(NodeRef::FuncCall(call), scope);
            let carried = std::mem::replace(&mut self.flow, outer);
            self.hands_on(&carried);
            self.columns.merge(&mut self.flow, &carried);
        } else if name == "count" {
            // A number that is made of no value.
            self.aside(|walker| walker.walk_children(NodeRef::FuncCall(call), scope));
        } else {
            self.walk_children(NodeRef::FuncCall(call), scope);
        }
        let runs = functions::runs(name, call.args.len());
        if runs != Runs::Nothing {
            self.runs(runs, &call.args);
        }
    }

    /// A function whose arguments are more than values.
    fn runs(&mut self, runs: Runs, args: &[Node]) {
        match runs {
            Runs::Nothing => {}
            Runs::Sql => self.runs_sql(args),
            Runs::Reads => self.named_relation(argument(args, 0, "tbl"), Named::ReadWhole),
            Runs::Asks => self.named_relation(argument(args, 0, "regclass"), Named::Read),
            Runs::Writes => self.named_relation(argument(args, 0, "regclass"), Named::Written),
            Runs::BuildsSql(index) => {
                self.out.dynamic = true;
                self.named_relation(argument(args, index, "relname"), Named::ReadWhole);
            }
            Runs::Schema => {
                let schema = argument(args, 0, "schema").and_then(|arg| constant::text(Some(arg)));
                self.out.dynamic |= schema.is_none();
                self.everything_in(schema);
            }
            Runs::Database => self.everything_in(None),
            Runs::Cursor => {
                self.where_of_read(Where::Missing);
                self.limit(None);
                let anything = self.columns.anything();
                self.columns.merge(&mut self.flow, &anything);
            }
            Runs::Setting => {
                match argument(args, 0, "setting_name").and_then(|arg| constant::text(Some(arg))) {
                    Some(setting) => {
                        self.kind(Kind::Set);
                        let value = argument(args, 1, "new_value").and_then(|arg| constant::text(Some(arg)));
                        self.setting(&setting, value.as_deref());
                    }
                    None => self.any_setting(),
                }
            }
        }
    }

    /// One of the arguments is SQL; which one depends on how the function is called, so each text that
    /// reads as SQL counts.
    fn runs_sql(&mut self, args: &[Node]) {
        let mut understood = false;
        for arg in args {
            let value = match node_of(Some(arg)) {
                Some(NodeRef::NamedArgExpr(named)) => named.arg.as_deref(),
                _ => Some(arg),
            };
            match constant::text(value) {
                Some(text) => {
                    if let Ok(Some(outs)) = self.nested_text(&text, Grammar::Sql) {
                        understood = true;
                        let mut all = self.columns.union(&outs);
                        all.whole_row = true;
                        self.columns.merge(&mut self.flow, &all);
                    }
                }
                None => self.out.dynamic |= !constant::is_not_text(arg),
            }
        }
        if !understood {
            self.out.dynamic = true;
            let anything = self.columns.anything();
            self.columns.merge(&mut self.flow, &anything);
        }
    }

    fn named_relation(&mut self, name: Option<&Node>, how: Named) {
        let Some(relation) = constant::relation(name) else {
            self.out.dynamic = true;
            return;
        };
        if how == Named::Written {
            self.writes(relation);
            return;
        }
        if how == Named::ReadWhole {
            self.where_of_read(Where::Missing);
            self.limit(None);
        }
        let column = Column { relation: Some(relation.clone()), name: "*".to_owned() };
        self.reads(relation);
        self.out.columns_read.insert(column.clone());
        self.columns.add(&mut self.flow, column);
        self.flow.whole_row = true;
    }

    fn everything_in(&mut self, schema: Option<String>) {
        self.where_of_read(Where::Missing);
        self.limit(None);
        self.reads(Relation { schema, name: "*".to_owned() });
        self.out.columns_read.insert(Column { relation: None, name: "*".to_owned() });
        let anything = self.columns.anything();
        self.columns.merge(&mut self.flow, &anything);
    }
}

/// What becomes of a relation that an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Read,
    ReadWhole,
    Written,
}

/// The argument at `index`, or that of this name; `None` where the text does not tell which it is.
fn argument<'n>(args: &'n [Node], index: usize, name: &str) -> Option<&'n Node> {
    match node_of(args.get(index)) {
        None | Some(NodeRef::NamedArgExpr(_)) => {}
        Some(_) => return args.get(index),
    }
    // By position come first, by name what is left of them.
    args.iter().find_map(|arg| match node_of(Some(arg)) {
        Some(NodeRef::NamedArgExpr(named)) if named.name == name => named.arg.as_deref(),
        _ => None,
    })
}
