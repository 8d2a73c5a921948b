//! The walk over a statement's tree: what it finds, and expressions.

use std::collections::BTreeSet;
use std::rc::Rc;

use pg_query::NodeRef;
use pg_query::protobuf::{
    AIndirection, AStar, BoolExpr, Node, NullTest, RangeVar, RawStmt, SelectStmt, SubLink, SubLinkType,
    TypeCast,
};

use super::constant;
use super::functions;
use super::parser::{self, Grammar};
use super::scope::{Columns, Lineage, Out, Scope};
use super::tree::children;
use super::{Bound, Class, Column, Function, Kind, Limit, Relation, Statement, Where};

/// Texts within texts (a DO within a function body within …) deeper than this stay unread.
const MAX_NESTED: usize = 16;

/// Walks one top-level statement.
pub(super) struct Walker {
    pub(super) out: Statement,
    pub(super) columns: Columns,
    /// What the expression being walked is made of.
    pub(super) flow: Lineage,
    /// `false` below an EXPLAIN that does not execute.
    pub(super) executes: bool,
    /// The body of an SQL function is walked, in which `a.b` may be `b(a)` of the parameter `a`.
    pub(super) sql_body: bool,
    /// The statement of an SQL PREPARE is walked, whose parameters EXECUTE gives.
    pub(super) prepares: bool,
    /// How many texts this one is nested in.
    pub(super) nested: usize,
    /// The text of the statement being walked.
    pub(super) source: Rc<str>,
}

impl Walker {
    pub(super) fn new(source: &str) -> Self {
        Self {
            out: Statement { text: source.to_owned(), ..Statement::default() },
            columns: Columns::default(),
            flow: Lineage::default(),
            executes: true,
            sql_body: false,
            prepares: false,
            nested: 0,
            source: Rc::from(source),
        }
    }

    /// Reads a top-level statement whole.
    pub(super) fn script_statement(mut self, raw: &RawStmt) -> Statement {
        let scope = Scope::default();
        if let Some(node) = node_of(raw.stmt.as_deref()) {
            self.out.kind = self.statement(node, &scope).unwrap_or_else(|| {
                self.walk_children(node, &scope);
                self.kind(Kind::Other)
            });
        }
        self.finish()
    }

    fn finish(mut self) -> Statement {
        let makes_view =
            self.out.kinds.iter().any(|kind| matches!(kind, Kind::CreateView | Kind::CreateRule));
        if makes_view && self.out.reads.iter().any(|relation| relation.name == "pg_settings") {
            // Through it settings can be set later.
            self.any_setting();
        }
        let mut classes: BTreeSet<Class> =
            self.out.kinds.iter().flat_map(|kind| kind.classes()).copied().collect();
        classes.append(&mut self.out.classes);
        if !self.out.reads.is_empty() {
            classes.insert(Class::Read);
        }
        self.out.classes = classes;
        self.out.where_clause = match (self.out.where_read, self.out.where_write) {
            (Some(read), Some(write)) => Some(read.min(write)),
            (read, write) => read.or(write),
        };
        self.out
    }

    /// The statement contains a part of this kind.
    pub(super) fn kind(&mut self, kind: Kind) -> Kind {
        if self.executes {
            self.out.kinds.insert(kind);
        }
        kind
    }

    pub(super) fn class(&mut self, class: Class) {
        self.out.classes.insert(class);
    }

    pub(super) fn classes(&mut self, classes: &[Class]) {
        self.out.classes.extend(classes);
    }

    pub(super) fn reads(&mut self, relation: Relation) {
        if shows_files(&relation.name) {
            self.class(Class::External);
        }
        self.out.reads.insert(relation);
    }

    /// The statement changes `relation`; under an EXPLAIN that does not execute, the planner reads it.
    pub(super) fn writes(&mut self, relation: Relation) {
        if self.executes {
            if relation.name == "pg_settings" {
                // An UPDATE of this view sets settings, by names that the statement computes.
                self.any_setting();
            } else if is_catalog(&relation) {
                self.class(Class::Admin);
                if holds_rights(&relation.name) {
                    self.class(Class::Privilege);
                }
            }
            self.out.writes.insert(relation);
        } else {
            self.out.reads.insert(relation);
        }
    }

    pub(super) fn writes_range(&mut self, range: &RangeVar) -> Relation {
        let relation = relation(range);
        self.writes(relation.clone());
        relation
    }

    pub(super) fn writes_column(&mut self, relation: &Relation, name: &str) {
        if self.executes {
            let column = Column { relation: Some(relation.clone()), name: name.to_owned() };
            self.out.columns_written.insert(column);
        }
    }

    pub(super) fn function(&mut self, schema: Option<&str>, name: &str) {
        self.classes(functions::classes(name));
        self.out.functions.insert(Function { schema: schema.map(str::to_owned), name: name.to_owned() });
    }

    /// A setting changes whose name the text does not tell.
    pub(super) fn any_setting(&mut self) {
        self.kind(Kind::Set);
        self.out.settings.insert("*".to_owned());
        self.out.changes_lexing = true;
    }

    /// A query whose rows go somewhere, bounded by `bound` if by anything.
    pub(super) fn limit(&mut self, bound: Option<Bound>) {
        if !self.executes {
            return;
        }
        match bound {
            Some(bound) if self.out.limit != Some(Limit::Missing) => {
                self.out.limit = Some(Limit::Present);
                self.out.limit_rows.insert(bound);
            }
            _ => {
                self.out.limit = Some(Limit::Missing);
                self.out.limit_rows.clear();
            }
        }
    }

    /// The LIMIT of a query whose rows go somewhere.
    fn limit_of(&mut self, select: &SelectStmt) {
        // Whose parameter it is, and so its value, the text alone does not tell within another text.
        let known = |bound: &Bound| self.nested == 0 && !self.prepares || matches!(bound, Bound::Rows(_));
        let bound = constant::limit(select).filter(known);
        self.limit(bound);
    }

    pub(super) fn where_of_read(&mut self, found: Where) {
        if self.executes {
            self.out.where_read = Some(self.out.where_read.map_or(found, |known| known.min(found)));
        }
    }

    pub(super) fn where_of_write(&mut self, found: Where) {
        if self.executes {
            self.out.where_write = Some(self.out.where_write.map_or(found, |known| known.min(found)));
        }
    }

    /// A part could not be read: the statement is of kind `unparsed` as well.
    pub(super) fn unparsed(&mut self, what: &str, reason: &str) {
        self.out.kinds.insert(Kind::Unparsed);
        self.out.dynamic = true;
        self.out.error.get_or_insert_with(|| format!("{what}: {reason}"));
    }

    /// Reads a text that the statement runs: the result of its last statement, `None` where it has no
    /// statement. `Err` says why it could not be read.
    pub(super) fn nested_text(&mut self, text: &str, grammar: Grammar) -> Result<Option<Vec<Out>>, String> {
        if self.nested >= MAX_NESTED {
            return Err(format!("more than {MAX_NESTED} texts within one another"));
        }
        let statements = parser::parse(text, grammar)?;
        self.nested += 1;
        let source = Rc::clone(&self.source);
        let scope = Scope::default();
        let mut outs = Vec::new();
        for raw in &statements {
            self.source = Rc::from(super::text_of(text, raw).unwrap_or(text));
            match node_of(raw.stmt.as_deref()) {
                // A bare expression is wrapped in a SELECT that nobody wrote.
                Some(NodeRef::SelectStmt(select))
                    if grammar != Grammar::Sql && select.from_clause.is_empty() =>
                {
                    outs = self.select(select, &scope, None);
                }
                Some(NodeRef::PlassignStmt(assign)) => {
                    self.list(&assign.indirection, &scope);
                    if let Some(value) = assign.val.as_deref() {
                        outs = self.select(value, &scope, None);
                    }
                }
                Some(node) => outs = self.top_query(node, &scope).unwrap_or_default(),
                None => {}
            }
        }
        self.source = source;
        self.nested -= 1;
        Ok((!statements.is_empty()).then_some(outs))
    }

    /// A statement in a place where its rows go somewhere: its result, where it has one.
    pub(super) fn top_query(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) -> Option<Vec<Out>> {
        if let NodeRef::SelectStmt(select) = node {
            self.limit_of(select);
        }
        if let Some(outs) = self.query(node, scope) {
            // The rows that a change returns are bounded by its WHERE alone.
            if matches!(node, NodeRef::UpdateStmt(_) | NodeRef::DeleteStmt(_) | NodeRef::MergeStmt(_))
                && !outs.is_empty()
            {
                self.limit(None);
            }
            return Some(outs);
        }
        self.node(node, scope);
        None
    }

    /// Walks whatever this is.
    pub(super) fn node(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) {
        match node {
            NodeRef::ColumnRef(column) => self.column_ref(column, scope),
            NodeRef::FuncCall(call) => self.call(call, scope),
            NodeRef::SubLink(link) => self.sublink(link, scope),
            NodeRef::AIndirection(indirection) => self.indirection(indirection, scope),
            NodeRef::NullTest(test) => self.null_test(test, scope),
            NodeRef::RangeVar(range) => self.reads(relation(range)),
            // The names in it are aliases.
            NodeRef::LockingClause(_) => _ = self.kind(Kind::LockRows),
            _ if self.lists_columns(node, scope) => self.walk_children(node, scope),
            _ => {
                if let Some(outs) = self.query(node, scope) {
                    let all = self.columns.union(&outs);
                    self.columns.merge(&mut self.flow, &all);
                } else if self.statement(node, scope).is_none() {
                    self.walk_children(node, scope);
                }
            }
        }
    }

    /// Notes the columns that the node holds as plain names; `false` where it is not such a node.
    fn lists_columns(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) -> bool {
        let own: &[&[Node]] = match node {
            NodeRef::IndexElem(element) if !element.name.is_empty() => {
                self.listed_column(&element.name, scope);
                &[]
            }
            NodeRef::StatsElem(element) if !element.name.is_empty() => {
                self.listed_column(&element.name, scope);
                &[]
            }
            NodeRef::PartitionElem(element) if !element.name.is_empty() => {
                self.listed_column(&element.name, scope);
                &[]
            }
            NodeRef::Constraint(constraint) => {
                if let Some(table) = &constraint.pktable {
                    self.columns_of(&relation(table), &constraint.pk_attrs);
                }
                &[&constraint.keys, &constraint.fk_attrs, &constraint.including]
            }
            NodeRef::PublicationTable(table) => {
                if let Some(range) = &table.relation {
                    self.columns_of(&relation(range), &table.columns);
                }
                &[]
            }
            _ => return false,
        };
        for name in own.iter().flat_map(|names| names.iter()).filter_map(string) {
            self.listed_column(name, scope);
        }
        true
    }

    /// Columns of `relation` are read by their names.
    pub(super) fn columns_of(&mut self, relation: &Relation, names: &[Node]) {
        for name in names.iter().filter_map(string) {
            self.out.columns_read.insert(Column { relation: Some(relation.clone()), name: name.to_owned() });
        }
    }

    pub(super) fn walk_children(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) {
        children(node, &mut |child| self.node(child, scope));
    }

    /// Walks the children but for the relations that are dealt with already.
    pub(super) fn walk_rest(&mut self, node: NodeRef<'_>, done: &[Option<&RangeVar>], scope: &Scope<'_>) {
        children(node, &mut |child| {
            if let NodeRef::RangeVar(range) = child
                && done.iter().flatten().any(|done| std::ptr::eq(*done, range))
            {
                return;
            }
            self.node(child, scope);
        });
    }

    pub(super) fn optional(&mut self, node: Option<&Node>, scope: &Scope<'_>) {
        if let Some(node) = node_of(node) {
            self.node(node, scope);
        }
    }

    pub(super) fn list(&mut self, nodes: &[Node], scope: &Scope<'_>) {
        for node in nodes {
            self.optional(Some(node), scope);
        }
    }

    /// Walks an expression and gives what it is made of.
    pub(super) fn lineage(&mut self, node: Option<&Node>, scope: &Scope<'_>) -> Lineage {
        let outer = std::mem::take(&mut self.flow);
        self.optional(node, scope);
        let found = std::mem::replace(&mut self.flow, outer);
        self.columns.merge(&mut self.flow, &found);
        found
    }

    /// Walks what does not become part of the value at hand.
    pub(super) fn aside(&mut self, walk: impl FnOnce(&mut Self)) {
        let outer = std::mem::take(&mut self.flow);
        walk(self);
        self.flow = outer;
    }

    fn null_test(&mut self, test: &NullTest, scope: &Scope<'_>) {
        self.aside(|walker| walker.optional(test.arg.as_deref(), scope));
    }

    fn sublink(&mut self, link: &SubLink, scope: &Scope<'_>) {
        self.optional(link.testexpr.as_deref(), scope);
        let Some(node) = node_of(link.subselect.as_deref()) else { return };
        let exists = link.sub_link_type() == SubLinkType::ExistsSublink;
        match self.query(node, scope) {
            Some(outs) if !exists => {
                let all = self.columns.union(&outs);
                self.columns.merge(&mut self.flow, &all);
            }
            Some(_) => {}
            None => self.node(node, scope),
        }
    }
}

/// One of the server's own tables, whose rows are its objects and rights.
fn is_catalog(relation: &Relation) -> bool {
    match relation.schema.as_deref() {
        Some(schema) => schema == "pg_catalog",
        None => relation.name.starts_with("pg_"),
    }
}

/// A view of the server's that shows files of its host.
fn shows_files(view: &str) -> bool {
    matches!(view, "pg_hba_file_rules" | "pg_ident_file_mappings" | "pg_file_settings")
}

/// A catalog that holds roles and rights, or code and what has it run.
fn holds_rights(catalog: &str) -> bool {
    matches!(
        catalog,
        "pg_attribute"
            | "pg_auth_members"
            | "pg_authid"
            | "pg_class"
            | "pg_database"
            | "pg_db_role_setting"
            | "pg_default_acl"
            | "pg_event_trigger"
            | "pg_foreign_data_wrapper"
            | "pg_foreign_server"
            | "pg_language"
            | "pg_largeobject_metadata"
            | "pg_namespace"
            | "pg_parameter_acl"
            | "pg_policy"
            | "pg_proc"
            | "pg_rewrite"
            | "pg_tablespace"
            | "pg_trigger"
            | "pg_type"
            | "pg_user_mapping"
    )
}

/// The node behind an optional one.
pub(super) fn node_of(node: Option<&Node>) -> Option<NodeRef<'_>> {
    node?.node.as_ref().map(pg_query::NodeEnum::to_ref)
}

/// A name, where the node is one.
pub(super) fn string(node: &Node) -> Option<&str> {
    match node_of(Some(node)) {
        Some(NodeRef::String(name)) => Some(&name.sval),
        _ => None,
    }
}

pub(super) fn is_star(node: &Node) -> bool {
    matches!(node_of(Some(node)), Some(NodeRef::AStar(AStar {})))
}

/// The last two parts of a dotted name.
pub(super) fn qualified(names: &[Node]) -> (Option<&str>, &str) {
    let mut parts = names.iter().rev().filter_map(string);
    let name = parts.next().unwrap_or_default();
    (parts.next(), name)
}

pub(super) fn relation(range: &RangeVar) -> Relation {
    let schema = (!range.schemaname.is_empty()).then(|| range.schemaname.clone());
    Relation { schema, name: range.relname.clone() }
}

/// The name that the server gives to a result column without one (`FigureColname`).
pub(super) fn figure_name(node: Option<&Node>) -> Option<String> {
    let name = match node_of(node)? {
        NodeRef::ColumnRef(column) => column.fields.iter().rev().find_map(string)?.to_owned(),
        NodeRef::AIndirection(AIndirection { arg, indirection }) => {
            match indirection.iter().rev().find_map(string) {
                Some(field) => field.to_owned(),
                None => figure_name(arg.as_deref())?,
            }
        }
        NodeRef::FuncCall(call) => qualified(&call.funcname).1.to_owned(),
        NodeRef::TypeCast(TypeCast { arg, type_name, .. }) => match figure_name(arg.as_deref()) {
            Some(name) if !matches!(node_of(arg.as_deref()), Some(NodeRef::CaseExpr(_))) => name,
            _ => qualified(&type_name.as_ref()?.names).1.to_owned(),
        },
        NodeRef::CollateClause(collate) => figure_name(collate.arg.as_deref())?,
        NodeRef::CaseExpr(case) => {
            figure_name(case.defresult.as_deref()).unwrap_or_else(|| "case".to_owned())
        }
        NodeRef::SubLink(link) => match link.sub_link_type() {
            SubLinkType::ExistsSublink => "exists".to_owned(),
            SubLinkType::ArraySublink => "array".to_owned(),
            SubLinkType::ExprSublink => match node_of(link.subselect.as_deref())? {
                NodeRef::SelectStmt(select) => match node_of(select.target_list.first())? {
                    NodeRef::ResTarget(target) if target.name.is_empty() => {
                        figure_name(target.val.as_deref())?
                    }
                    NodeRef::ResTarget(target) => target.name.clone(),
                    _ => return None,
                },
                _ => return None,
            },
            _ => return None,
        },
        NodeRef::CoalesceExpr(_) => "coalesce".to_owned(),
        NodeRef::AArrayExpr(_) => "array".to_owned(),
        NodeRef::RowExpr(_) => "row".to_owned(),
        NodeRef::GroupingFunc(_) => "grouping".to_owned(),
        NodeRef::BoolExpr(BoolExpr { .. }) => return None,
        _ => return None,
    };
    Some(name)
}
