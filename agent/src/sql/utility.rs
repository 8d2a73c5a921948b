//! Every command but the queries: its kind, and the objects it concerns.

use pg_query::NodeRef;
use pg_query::protobuf::{
    AlterTableStmt, AlterTableType, CopyStmt, CreateTableAsStmt, DefElem, DefineStmt, DiscardMode, DropStmt,
    ExplainStmt, GrantStmt, GrantTargetType, Node, ObjectType, RangeVar, RenameStmt, RuleStmt,
    TransactionStmtKind,
};

use super::copy;
use super::objects::{self, Action};
use super::scope::{Item, Lineage, Scope, Source};
use super::set::makes_writable;
use super::walk::{Walker, node_of, qualified, relation, string};
use super::{Class, Column, Kind, Relation, Where};

impl Walker {
    /// A statement: its kind, or `None` where the node is none.
    pub(super) fn statement(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) -> Option<Kind> {
        let kind = match node {
            NodeRef::RawStmt(raw) => return self.statement(node_of(raw.stmt.as_deref())?, scope),
            NodeRef::SelectStmt(_)
            | NodeRef::InsertStmt(_)
            | NodeRef::UpdateStmt(_)
            | NodeRef::DeleteStmt(_)
            | NodeRef::MergeStmt(_) => {
                let outs = self.top_query(node, scope).unwrap_or_default();
                let kind = query_kind(node);
                // Without RETURNING there is no result.
                let result = kind == Kind::Select || !outs.is_empty();
                self.out.outputs = result.then(|| self.columns.outputs(&outs));
                return Some(kind);
            }
            NodeRef::ExplainStmt(explain) => return Some(self.explain(explain, scope)),
            NodeRef::CopyStmt(copy) => return Some(self.copy(copy, scope)),
            NodeRef::CreateTableAsStmt(create) => return Some(self.create_as(create, scope)),
            NodeRef::DropStmt(drop) => return Some(self.drop(drop)),
            NodeRef::AlterTableStmt(alter) => return Some(self.alter_table(alter, scope)),
            NodeRef::RenameStmt(rename) => return Some(self.rename(rename)),
            NodeRef::GrantStmt(grant) => return Some(self.grant(grant)),
            NodeRef::DefineStmt(define) => return Some(self.define(define, scope)),
            NodeRef::VariableSetStmt(set) => return Some(self.variable_set(set)),
            NodeRef::RuleStmt(rule) => return Some(self.rule(rule, scope)),
            NodeRef::DoStmt(body) => return Some(self.do_block(body)),
            NodeRef::CreateFunctionStmt(function) => return Some(self.create_function(function, scope)),

            NodeRef::PrepareStmt(prepare) => {
                self.out.prepares.insert(prepare.name.clone());
                let outer = std::mem::replace(&mut self.prepares, true);
                self.later(prepare.query.as_deref(), scope);
                self.prepares = outer;
                return Some(self.kind(Kind::Prepare));
            }
            NodeRef::DeclareCursorStmt(cursor) => {
                self.out.cursor = Some(cursor.portalname.clone());
                self.later(cursor.query.as_deref(), scope);
                return Some(self.kind(Kind::DeclareCursor));
            }
            NodeRef::FetchStmt(fetch) => {
                self.out.cursor = Some(fetch.portalname.clone());
                return Some(self.kind(if fetch.ismove { Kind::Move } else { Kind::Fetch }));
            }
            NodeRef::ExecuteStmt(execute) => {
                self.out.executes.insert(execute.name.clone());
                self.walk_children(node, scope);
                return Some(self.kind(Kind::Execute));
            }
            NodeRef::CallStmt(call) => {
                if let Some(function) = call.funccall.as_deref() {
                    self.node(NodeRef::FuncCall(function), scope);
                }
                return Some(self.kind(Kind::Call));
            }
            NodeRef::TruncateStmt(truncate) => {
                for node in &truncate.relations {
                    if let Some(NodeRef::RangeVar(range)) = node_of(Some(node)) {
                        self.writes_range(range);
                    }
                }
                return Some(self.kind(Kind::Truncate));
            }
            NodeRef::TransactionStmt(transaction) => {
                if makes_writable(&transaction.options) {
                    self.out.settings.insert("transaction_read_only".to_owned());
                }
                return Some(self.kind(match transaction.kind() {
                    TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart => Kind::Begin,
                    TransactionStmtKind::TransStmtCommit => Kind::Commit,
                    TransactionStmtKind::TransStmtRollback => Kind::Rollback,
                    TransactionStmtKind::TransStmtSavepoint => Kind::Savepoint,
                    TransactionStmtKind::TransStmtRelease => Kind::ReleaseSavepoint,
                    TransactionStmtKind::TransStmtRollbackTo => Kind::RollbackToSavepoint,
                    TransactionStmtKind::TransStmtPrepare => Kind::PrepareTransaction,
                    TransactionStmtKind::TransStmtCommitPrepared => Kind::CommitPrepared,
                    TransactionStmtKind::TransStmtRollbackPrepared => Kind::RollbackPrepared,
                    TransactionStmtKind::Undefined => Kind::Other,
                }));
            }
            NodeRef::AlterSystemStmt(alter) => {
                self.configure(alter.setstmt.as_ref());
                return Some(self.kind(Kind::AlterSystem));
            }
            NodeRef::AlterRoleSetStmt(alter) => {
                self.configure(alter.setstmt.as_ref());
                return Some(self.kind(Kind::AlterRole));
            }
            NodeRef::AlterDatabaseSetStmt(alter) => {
                self.configure(alter.setstmt.as_ref());
                return Some(self.kind(Kind::AlterDatabase));
            }
            NodeRef::AlterDefaultPrivilegesStmt(alter) => {
                if let Some(grant) = &alter.action {
                    self.grant(grant);
                }
                return Some(self.kind(Kind::AlterDefaultPrivileges));
            }
            NodeRef::CreateTrigStmt(trigger) => {
                let table = trigger.relation.as_ref().map(|range| self.writes_range(range));
                if let Some(table) = &table {
                    self.columns_of(table, &trigger.columns);
                }
                let (schema, name) = qualified(&trigger.funcname);
                self.function(schema, name);
                let mut inner = scope.inner();
                inner.items = versions(table);
                self.walk_rest(node, &[trigger.relation.as_ref()], &inner);
                return Some(self.kind(Kind::CreateTrigger));
            }
            NodeRef::CreateEventTrigStmt(trigger) => {
                let (schema, name) = qualified(&trigger.funcname);
                self.function(schema, name);
                return Some(self.kind(Kind::CreateEventTrigger));
            }
            NodeRef::CreateCastStmt(_)
            | NodeRef::CreateTransformStmt(_)
            | NodeRef::CreateConversionStmt(_) => {
                let mut names: Vec<&[Node]> = Vec::new();
                let kind = match node {
                    NodeRef::CreateCastStmt(cast) => {
                        names.extend(cast.func.as_ref().map(|function| &function.objname[..]));
                        Kind::CreateCast
                    }
                    NodeRef::CreateTransformStmt(transform) => {
                        names.extend(transform.fromsql.as_ref().map(|function| &function.objname[..]));
                        names.extend(transform.tosql.as_ref().map(|function| &function.objname[..]));
                        Kind::CreateTransform
                    }
                    NodeRef::CreateConversionStmt(conversion) => {
                        names.push(&conversion.func_name);
                        Kind::CreateConversion
                    }
                    _ => Kind::Other,
                };
                for name in names {
                    let (schema, name) = qualified(name);
                    self.function(schema, name);
                }
                return Some(self.kind(kind));
            }
            NodeRef::VacuumStmt(vacuum) => {
                let everything = Relation { schema: None, name: "*".to_owned() };
                if vacuum.rels.is_empty() {
                    self.writes(everything);
                }
                for node in &vacuum.rels {
                    if let Some(NodeRef::VacuumRelation(relation)) = node_of(Some(node))
                        && let Some(range) = &relation.relation
                    {
                        let table = self.writes_range(range);
                        self.columns_of(&table, &relation.va_cols);
                    }
                }
                return Some(self.kind(if vacuum.is_vacuumcmd { Kind::Vacuum } else { Kind::Analyze }));
            }
            NodeRef::LockStmt(lock) => {
                self.list(&lock.relations, scope);
                return Some(self.kind(Kind::Lock));
            }
            NodeRef::CommentStmt(comment) => {
                self.writes_object(comment.objtype(), comment.object.as_deref());
                return Some(self.kind(Kind::Comment));
            }
            NodeRef::SecLabelStmt(label) => {
                self.writes_object(label.objtype(), label.object.as_deref());
                return Some(self.kind(Kind::SecurityLabel));
            }
            NodeRef::AlterObjectSchemaStmt(alter) => {
                self.changed(alter.object_type(), alter.relation.as_ref(), alter.object.as_deref());
                return Some(self.kind(objects::kind(Action::Alter, alter.object_type())));
            }
            NodeRef::AlterOwnerStmt(alter) => {
                self.changed(alter.object_type(), alter.relation.as_ref(), alter.object.as_deref());
                self.class(Class::Privilege);
                return Some(self.kind(objects::kind(Action::Alter, alter.object_type())));
            }
            NodeRef::AlterObjectDependsStmt(alter) => {
                self.changed(alter.object_type(), alter.relation.as_ref(), alter.object.as_deref());
                return Some(self.kind(objects::kind(Action::Alter, alter.object_type())));
            }
            NodeRef::AlterFunctionStmt(alter) => {
                for action in &alter.actions {
                    self.function_option(action);
                }
                return Some(self.kind(objects::kind(Action::Alter, alter.objtype())));
            }
            NodeRef::CreateForeignTableStmt(create) => {
                if let Some(base) = &create.base_stmt {
                    if let Some(range) = &base.relation {
                        self.writes_range(range);
                    }
                    self.walk_rest(NodeRef::CreateStmt(base), &[base.relation.as_ref()], scope);
                }
                self.list(&create.options, scope);
                return Some(self.kind(Kind::CreateForeignTable));
            }
            NodeRef::ImportForeignSchemaStmt(import) => {
                self.writes(Relation { schema: Some(import.local_schema.clone()), name: "*".to_owned() });
                return Some(self.kind(Kind::ImportForeignSchema));
            }
            NodeRef::CompositeTypeStmt(composite) => {
                // Its name is a type's, though it is written like a relation's.
                self.list(&composite.coldeflist, scope);
                return Some(self.kind(Kind::CreateType));
            }
            NodeRef::DiscardStmt(discard) => {
                if discard.target() == DiscardMode::DiscardAll {
                    self.out.settings.insert("*".to_owned());
                }
                return Some(self.kind(Kind::Discard));
            }
            NodeRef::LoadStmt(_) => return Some(self.kind(Kind::Load)),
            NodeRef::CreateExtensionStmt(_) => return Some(self.kind(Kind::CreateExtension)),
            NodeRef::ReplicaIdentityStmt(_) => return None,
            NodeRef::CreateStatsStmt(stats) => {
                let mut inner = scope.inner();
                for node in &stats.relations {
                    if let Some(NodeRef::RangeVar(range)) = node_of(Some(node)) {
                        self.reads(relation(range));
                        inner.items.push(table_item(relation(range), None));
                    }
                }
                self.list(&stats.exprs, &inner);
                return Some(self.kind(Kind::CreateStatistics));
            }
            NodeRef::CreateRangeStmt(range) => {
                self.named_functions(&range.params);
                return Some(self.kind(Kind::CreateType));
            }
            NodeRef::AlterTypeStmt(alter) => {
                self.named_functions(&alter.options);
                return Some(self.kind(Kind::AlterType));
            }
            NodeRef::AlterOperatorStmt(alter) => {
                self.named_functions(&alter.options);
                return Some(self.kind(Kind::AlterOperator));
            }
            NodeRef::CreateOpClassStmt(class) => {
                self.class_functions(&class.items);
                return Some(self.kind(Kind::CreateOperatorClass));
            }
            NodeRef::AlterOpFamilyStmt(family) => {
                self.class_functions(&family.items);
                return Some(self.kind(Kind::AlterOperatorFamily));
            }
            NodeRef::CreateAmStmt(method) => {
                let (schema, name) = qualified(&method.handler_name);
                self.function(schema, name);
                return Some(self.kind(Kind::CreateAccessMethod));
            }
            // `X` is DROP CONSTRAINT.
            NodeRef::AlterDomainStmt(alter) if alter.subtype == "X" => {
                self.kind(Kind::DropConstraint);
                return Some(self.kind(Kind::AlterDomain));
            }
            other => {
                let (kind, written) = objects::simple(other)?;
                if let Some(range) = written {
                    let table = self.writes_range(range);
                    let mut inner = scope.inner();
                    // Expressions of indexes, policies and constraints speak of the table's columns.
                    inner.items.push(table_item(table, None));
                    self.walk_rest(other, &[Some(range)], &inner);
                } else {
                    self.walk_children(other, scope);
                }
                kind
            }
        };
        Some(self.kind(kind))
    }

    /// A query that is run later: its result is told as this statement's.
    fn later(&mut self, query: Option<&Node>, scope: &Scope<'_>) {
        if let Some(node) = node_of(query) {
            let outs = self.top_query(node, scope).filter(|outs| !outs.is_empty());
            self.out.outputs = outs.map(|outs| self.columns.outputs(&outs));
        }
    }

    fn explain(&mut self, explain: &ExplainStmt, scope: &Scope<'_>) -> Kind {
        let kind = self.kind(Kind::Explain);
        let executes = explain.options.iter().any(|option| match node_of(Some(option)) {
            Some(NodeRef::DefElem(option)) => option.defname == "analyze" && !is_off(option.arg.as_deref()),
            _ => false,
        });
        let outer = self.executes;
        self.executes &= executes;
        if let Some(node) = node_of(explain.query.as_deref()) {
            self.top_query(node, scope);
        }
        self.executes = outer;
        self.out.outputs = None;
        kind
    }

    fn create_as(&mut self, create: &CreateTableAsStmt, scope: &Scope<'_>) -> Kind {
        if let Some(into) = create.into.as_deref() {
            if let Some(range) = &into.rel {
                self.writes_range(range);
            }
            self.walk_rest(NodeRef::IntoClause(into), &[into.rel.as_ref()], scope);
        }
        if let Some(node) = node_of(create.query.as_deref()) {
            self.top_query(node, scope);
        }
        self.out.outputs = None;
        self.kind(match create.objtype() {
            ObjectType::ObjectMatview => Kind::CreateMaterializedView,
            _ => Kind::CreateTableAs,
        })
    }

    fn copy(&mut self, copy: &CopyStmt, scope: &Scope<'_>) -> Kind {
        if copy.is_program || !copy.filename.is_empty() {
            self.class(Class::External);
        } else {
            self.out.copy = Some(copy::describe(copy));
        }
        let columns: Vec<&str> = copy.attlist.iter().filter_map(string).collect();
        if let Some(range) = &copy.relation {
            let table = relation(range);
            let names: Vec<&str> = if columns.is_empty() { vec!["*"] } else { columns };
            if copy.is_from {
                self.writes(table.clone());
                for name in names {
                    self.writes_column(&table, name);
                }
                let mut inner = scope.inner();
                inner.items.push(table_item(table, None));
                self.optional(copy.where_clause.as_deref(), &inner);
            } else {
                self.reads(table.clone());
                // All rows of the table travel.
                self.where_of_read(Where::Missing);
                self.limit(None);
                let mut outs = Vec::new();
                for name in names {
                    let column = Column { relation: Some(table.clone()), name: name.to_owned() };
                    self.out.columns_read.insert(column.clone());
                    let star = name == "*";
                    let mut lineage = Lineage { whole_row: star, ..Lineage::default() };
                    self.columns.add(&mut lineage, column);
                    let name = (!star).then(|| name.to_owned());
                    outs.push(super::scope::Out { name, lineage, star });
                }
                self.out.outputs = Some(self.columns.outputs(&outs));
            }
        }
        if copy.query.is_some() {
            self.later(copy.query.as_deref(), scope);
        }
        self.list(&copy.options, scope);
        self.kind(if copy.is_from { Kind::CopyFrom } else { Kind::CopyTo })
    }

    fn drop(&mut self, drop: &DropStmt) -> Kind {
        for object in &drop.objects {
            self.writes_object(drop.remove_type(), Some(object));
        }
        self.kind(objects::kind(Action::Drop, drop.remove_type()))
    }

    fn alter_table(&mut self, alter: &AlterTableStmt, scope: &Scope<'_>) -> Kind {
        let mut inner = scope.inner();
        if let Some(range) = &alter.relation {
            let table = self.writes_range(range);
            inner.items.push(table_item(table.clone(), None));
            for command in &alter.cmds {
                let Some(NodeRef::AlterTableCmd(command)) = node_of(Some(command)) else { continue };
                if !command.name.is_empty() {
                    self.writes_column(&table, &command.name);
                }
                match command.subtype() {
                    AlterTableType::AtChangeOwner
                    | AlterTableType::AtEnableRowSecurity
                    | AlterTableType::AtDisableRowSecurity
                    | AlterTableType::AtForceRowSecurity
                    | AlterTableType::AtNoForceRowSecurity => self.class(Class::Privilege),
                    AlterTableType::AtGenericOptions => self.class(Class::External),
                    AlterTableType::AtDropColumn => _ = self.kind(Kind::DropColumn),
                    AlterTableType::AtAlterColumnType | AlterTableType::AtSetExpression => {
                        self.kind(Kind::AlterColumnType);
                    }
                    AlterTableType::AtDropConstraint => _ = self.kind(Kind::DropConstraint),
                    // Those for replicas alone no longer fire in ordinary sessions.
                    AlterTableType::AtDisableTrig
                    | AlterTableType::AtDisableTrigAll
                    | AlterTableType::AtDisableTrigUser
                    | AlterTableType::AtEnableReplicaTrig
                    | AlterTableType::AtDisableRule
                    | AlterTableType::AtEnableReplicaRule => _ = self.kind(Kind::DisableTrigger),
                    AlterTableType::AtDetachPartition
                    | AlterTableType::AtDetachPartitionFinalize
                    | AlterTableType::AtDropInherit => _ = self.kind(Kind::DetachPartition),
                    _ => {}
                }
                match node_of(command.def.as_deref()) {
                    // Partitions and parents change with it.
                    Some(NodeRef::PartitionCmd(partition)) => {
                        if let Some(range) = &partition.name {
                            self.writes_range(range);
                        }
                    }
                    Some(NodeRef::RangeVar(range)) => _ = self.writes_range(range),
                    Some(NodeRef::ColumnDef(column)) => {
                        if !column.colname.is_empty() {
                            self.writes_column(&table, &column.colname);
                        }
                        self.optional(command.def.as_deref(), &inner);
                    }
                    _ => self.optional(command.def.as_deref(), &inner),
                }
            }
        } else {
            self.list(&alter.cmds, &inner);
        }
        self.kind(objects::kind(Action::Alter, alter.objtype()))
    }

    fn rename(&mut self, rename: &RenameStmt) -> Kind {
        let object = rename.rename_type();
        self.changed(object, rename.relation.as_ref(), rename.object.as_deref());
        if let (Some(range), ObjectType::ObjectColumn) = (&rename.relation, object) {
            let table = relation(range);
            self.writes_column(&table, &rename.subname);
        }
        let altered = match object {
            // The new name is a table's, or that of a part of one.
            ObjectType::ObjectColumn | ObjectType::ObjectAttribute => rename.relation_type(),
            ObjectType::ObjectTabconstraint => ObjectType::ObjectTable,
            ObjectType::ObjectDomconstraint => ObjectType::ObjectDomain,
            other => other,
        };
        self.kind(objects::kind(Action::Alter, altered))
    }

    fn changed(&mut self, object_type: ObjectType, range: Option<&RangeVar>, object: Option<&Node>) {
        if let Some(range) = range {
            self.writes_range(range);
        } else {
            self.writes_object(object_type, object);
        }
    }

    /// An object by its name: the relation that it is, or belongs to.
    fn writes_object(&mut self, object_type: ObjectType, object: Option<&Node>) {
        let Some(NodeRef::List(list)) = node_of(object) else { return };
        let names: Vec<&str> = list.items.iter().filter_map(string).collect();
        let Some(parts) = objects::relation_part(object_type, &names) else { return };
        if let [.., schema, name] = parts {
            self.writes(Relation { schema: Some((*schema).to_owned()), name: (*name).to_owned() });
        } else if let [name] = parts {
            self.writes(Relation { schema: None, name: (*name).to_owned() });
        }
    }

    fn grant(&mut self, grant: &GrantStmt) -> Kind {
        for object in &grant.objects {
            match node_of(Some(object)) {
                Some(NodeRef::RangeVar(range)) => {
                    let table = self.writes_range(range);
                    for privilege in &grant.privileges {
                        let Some(NodeRef::AccessPriv(privilege)) = node_of(Some(privilege)) else { continue };
                        for name in privilege.cols.iter().filter_map(string) {
                            self.writes_column(&table, name);
                        }
                    }
                }
                Some(NodeRef::String(schema))
                    if grant.targtype() == GrantTargetType::AclTargetAllInSchema
                        && matches!(
                            grant.objtype(),
                            ObjectType::ObjectTable | ObjectType::ObjectSequence
                        ) =>
                {
                    self.writes(Relation { schema: Some(schema.sval.clone()), name: "*".to_owned() });
                }
                _ => {}
            }
        }
        self.kind(if grant.is_grant { Kind::Grant } else { Kind::Revoke })
    }

    /// CREATE AGGREGATE, OPERATOR, TYPE, COLLATION, TEXT SEARCH …: the functions named in it are
    /// called on its use.
    fn define(&mut self, define: &DefineStmt, scope: &Scope<'_>) -> Kind {
        self.named_functions(&define.definition);
        self.list(&define.args, scope);
        self.kind(objects::kind(Action::Create, define.kind()))
    }

    /// Options of which some have a function for their value.
    fn named_functions(&mut self, options: &[Node]) {
        for option in options {
            let Some(NodeRef::DefElem(option)) = node_of(Some(option)) else { continue };
            if !objects::names_a_function(&option.defname) {
                continue;
            }
            match node_of(option.arg.as_deref()) {
                Some(NodeRef::TypeName(name)) => {
                    let (schema, name) = qualified(&name.names);
                    self.function(schema, name);
                }
                Some(NodeRef::List(list)) => {
                    let (schema, name) = qualified(&list.items);
                    self.function(schema, name);
                }
                _ => {}
            }
        }
    }

    /// The support functions of an operator class or family.
    fn class_functions(&mut self, items: &[Node]) {
        for item in items {
            if let Some(NodeRef::CreateOpClassItem(item)) = node_of(Some(item))
                && item.itemtype == FUNCTION_ITEM
                && let Some(function) = &item.name
            {
                let (schema, name) = qualified(&function.objname);
                self.function(schema, name);
            }
        }
    }

    fn rule(&mut self, rule: &RuleStmt, scope: &Scope<'_>) -> Kind {
        let table = rule.relation.as_ref().map(|range| self.writes_range(range));
        let mut inner = scope.inner();
        inner.items = versions(table);
        self.optional(rule.where_clause.as_deref(), &inner);
        for action in &rule.actions {
            if let Some(node) = node_of(Some(action)) {
                self.top_query(node, &inner);
            }
        }
        self.out.outputs = None;
        self.kind(Kind::CreateRule)
    }
}

/// `OPCLASS_ITEM_FUNCTION`.
const FUNCTION_ITEM: i32 = 2;

/// `OLD` and `NEW` in a rule or trigger.
fn versions(table: Option<Relation>) -> Vec<Item> {
    let Some(table) = table else { return Vec::new() };
    [Some("old"), Some("new")]
        .map(|name| Item { qualified_only: true, ..table_item(table.clone(), name) })
        .into()
}

fn table_item(table: Relation, name: Option<&str>) -> Item {
    let name = name.map_or_else(|| table.name.clone(), str::to_owned);
    Item {
        name: Some(name),
        schema: None,
        columns: Vec::new(),
        source: Source::Table(table),
        target: false,
        qualified_only: false,
    }
}

fn query_kind(node: NodeRef<'_>) -> Kind {
    match node {
        NodeRef::InsertStmt(_) => Kind::Insert,
        NodeRef::UpdateStmt(_) => Kind::Update,
        NodeRef::DeleteStmt(_) => Kind::Delete,
        NodeRef::MergeStmt(_) => Kind::Merge,
        NodeRef::SelectStmt(select) if super::query::is_select_into(select) => Kind::SelectInto,
        _ => Kind::Select,
    }
}

/// The value of an EXPLAIN option turns it off.
fn is_off(value: Option<&Node>) -> bool {
    match node_of(value) {
        Some(NodeRef::String(word)) => {
            matches!(word.sval.to_ascii_lowercase().as_str(), "off" | "false")
        }
        Some(NodeRef::Integer(number)) => number.ival == 0,
        Some(NodeRef::Boolean(value)) => !value.boolval,
        _ => false,
    }
}

/// The text of an option's value.
pub(super) fn option_text(option: &DefElem) -> Option<&str> {
    match node_of(option.arg.as_deref())? {
        NodeRef::String(text) => Some(&text.sval),
        NodeRef::TypeName(name) => Some(qualified(&name.names).1),
        NodeRef::Boolean(value) => Some(if value.boolval { "true" } else { "false" }),
        NodeRef::Integer(number) => Some(if number.ival == 0 { "0" } else { "1" }),
        _ => None,
    }
}
