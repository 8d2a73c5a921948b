//! What stands in DO blocks and function bodies.

use pg_query::NodeRef;
use pg_query::protobuf::{
    CreateFunctionStmt, DefElem, DoStmt, FunctionParameterMode, Node, Token, VariableSetKind,
};
use serde_json::Value;

use super::constant;
use super::parser::{self, Grammar};
use super::scope::{Item, Lineage, Scope, Source};
use super::utility::option_text;
use super::walk::{Walker, node_of, string};
use super::{Class, Kind};

impl Walker {
    pub(super) fn do_block(&mut self, block: &DoStmt) -> Kind {
        let mut language = "plpgsql";
        let mut body = None;
        for option in options(&block.args) {
            match option.defname.as_str() {
                "language" => language = option_text(option).unwrap_or_default(),
                "as" => body = option_text(option),
                _ => {}
            }
        }
        self.body(language, body.unwrap_or_default(), None);
        self.out.outputs = None;
        self.kind(Kind::Do)
    }

    pub(super) fn create_function(&mut self, function: &CreateFunctionStmt, scope: &Scope<'_>) -> Kind {
        let mut language = None;
        let mut body = Vec::new();
        for node in &function.options {
            let Some(NodeRef::DefElem(option)) = node_of(Some(node)) else { continue };
            match option.defname.as_str() {
                "language" => language = option_text(option),
                "as" => match node_of(option.arg.as_deref()) {
                    Some(NodeRef::List(list)) => body.extend(list.items.iter().filter_map(string)),
                    _ => body.extend(option_text(option)),
                },
                _ => self.function_option(node),
            }
        }
        // Defaults of parameters, and type modifiers.
        self.list(&function.parameters, scope);
        if let Some(node) = node_of(function.sql_body.as_deref()) {
            let mut inner = scope.inner();
            inner.items.extend(parameters(function));
            let outer = std::mem::replace(&mut self.sql_body, true);
            self.statements(node, &inner);
            self.sql_body = outer;
        }
        if let Some(text) = body.first() {
            self.body(language.unwrap_or("sql"), text, Some(function));
        }
        self.out.outputs = None;
        self.kind(if function.is_procedure { Kind::CreateProcedure } else { Kind::CreateFunction })
    }

    /// The statements of a `BEGIN ATOMIC` body.
    fn statements(&mut self, node: NodeRef<'_>, scope: &Scope<'_>) {
        match node {
            NodeRef::List(list) => {
                for item in list.items.iter().filter_map(|item| node_of(Some(item))) {
                    self.statements(item, scope);
                }
            }
            NodeRef::ReturnStmt(_) => self.walk_children(node, scope),
            _ => _ = self.top_query(node, scope),
        }
    }

    /// SECURITY DEFINER, SET, SUPPORT in CREATE or ALTER FUNCTION.
    pub(super) fn function_option(&mut self, node: &Node) {
        let Some(NodeRef::DefElem(option)) = node_of(Some(node)) else { return };
        match (option.defname.as_str(), node_of(option.arg.as_deref())) {
            ("security", Some(NodeRef::Boolean(definer))) if definer.boolval => self.class(Class::Privilege),
            ("set", Some(NodeRef::VariableSetStmt(set))) if set.kind() != VariableSetKind::VarResetAll => {
                self.variable(set);
            }
            _ => {}
        }
    }

    /// A body in `language`.
    fn body(&mut self, language: &str, text: &str, function: Option<&CreateFunctionStmt>) {
        match language {
            "sql" => {
                let outer = std::mem::replace(&mut self.sql_body, true);
                if let Err(reason) = self.nested_text(text, Grammar::Sql) {
                    self.unparsed("the function's body", &reason);
                }
                self.sql_body = outer;
            }
            "plpgsql" => {
                let outer = std::mem::replace(&mut self.sql_body, false);
                self.plpgsql(text, function);
                self.sql_body = outer;
            }
            // Trusted languages of the distribution: what they run is not known, but they stay within
            // the database.
            "plperl" | "pltcl" | "plv8" | "pllua" | "plrust" => self.out.dynamic = true,
            _ => {
                self.class(Class::External);
                self.out.dynamic = true;
            }
        }
    }

    fn plpgsql(&mut self, text: &str, function: Option<&CreateFunctionStmt>) {
        // The parser knows the types that the server begins with, and no others; and what it tells of
        // a trigger's variables is no JSON. The types do not matter here.
        let parsed = pg_query::parse_plpgsql(&self.source).or_else(|error| match function {
            Some(function) => pg_query::parse_plpgsql(&without_types(function, text)).map_err(|_| error),
            None => Err(error),
        });
        match parsed {
            Ok(functions) => {
                self.plpgsql_node(&functions);
                if let Err(reason) = self.declarations(text) {
                    self.unparsed("the declarations of the PL/pgSQL body", &reason);
                }
            }
            Err(error) => self.unparsed("the PL/pgSQL body", &error.to_string()),
        }
    }

    fn plpgsql_node(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.plpgsql_node(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    let runs_text = match name.as_str() {
                        "PLpgSQL_stmt_dynexecute" | "PLpgSQL_stmt_dynfors" => Some("query"),
                        "PLpgSQL_stmt_return_query" | "PLpgSQL_stmt_open" => Some("dynquery"),
                        _ => None,
                    };
                    if let Some(expression) = runs_text.and_then(|key| field.get(key)) {
                        self.runs_expression(expression);
                    }
                    match name.as_str() {
                        "PLpgSQL_expr" => self.plpgsql_expression(field),
                        "PLpgSQL_stmt_commit" => _ = self.kind(Kind::Commit),
                        "PLpgSQL_stmt_rollback" => _ = self.kind(Kind::Rollback),
                        _ => {}
                    }
                    self.plpgsql_node(field);
                }
            }
            _ => {}
        }
    }

    fn plpgsql_expression(&mut self, expression: &Value) {
        let Some((text, grammar)) = text_and_grammar(expression) else { return };
        if let Err(reason) = self.nested_text(text, grammar) {
            self.unparsed("an expression of the PL/pgSQL body", &reason);
        }
    }

    /// EXECUTE: the text, where it is put together from constants.
    fn runs_expression(&mut self, expression: &Value) {
        let Some((text, grammar)) = expression.get("PLpgSQL_expr").and_then(text_and_grammar) else { return };
        let known = parser::parse(text, grammar).ok().and_then(|statements| {
            match node_of(statements.first()?.stmt.as_deref())? {
                NodeRef::SelectStmt(select) if select.from_clause.is_empty() && select.larg.is_none() => {
                    match (node_of(select.target_list.first())?, select.target_list.len()) {
                        (NodeRef::ResTarget(target), 1) => constant::text(target.val.as_deref()),
                        _ => None,
                    }
                }
                _ => None,
            }
        });
        match known {
            Some(sql) => {
                if let Err(reason) = self.nested_text(&sql, Grammar::Sql) {
                    self.unparsed("the text that EXECUTE runs", &reason);
                }
            }
            None => self.out.dynamic = true,
        }
    }

    /// The values that DECLARE gives to variables: the parser leaves out those of records.
    fn declarations(&mut self, text: &str) -> Result<(), String> {
        for expression in declared_values(text)? {
            self.nested_text(expression, Grammar::Plpgsql(PLPGSQL_EXPRESSION))?;
        }
        Ok(())
    }
}

/// `RAW_PARSE_PLPGSQL_EXPR`.
const PLPGSQL_EXPRESSION: i64 = 2;

fn options(args: &[Node]) -> impl Iterator<Item = &DefElem> {
    args.iter().filter_map(|arg| match node_of(Some(arg)) {
        Some(NodeRef::DefElem(option)) => Some(option),
        _ => None,
    })
}

/// A function's parameters, which its body names like columns.
fn parameters(function: &CreateFunctionStmt) -> Option<Item> {
    let (_, name) = super::walk::qualified(&function.funcname);
    Some(Item {
        name: Some(name.to_owned()),
        schema: None,
        columns: Vec::new(),
        source: Source::Any(Lineage::default()),
        target: false,
        qualified_only: true,
    })
}

/// The function's command with a type that the parser knows in the place of each.
fn without_types(function: &CreateFunctionStmt, body: &str) -> String {
    let mut parameters = Vec::new();
    let mut results = 0_usize;
    let mut rows = false;
    for node in &function.parameters {
        let Some(NodeRef::FunctionParameter(parameter)) = node_of(Some(node)) else { continue };
        let mode = match parameter.mode() {
            FunctionParameterMode::FuncParamOut => "OUT",
            FunctionParameterMode::FuncParamInout => "INOUT",
            FunctionParameterMode::FuncParamTable => {
                rows = true;
                "OUT"
            }
            _ => "IN",
        };
        results += usize::from(mode != "IN");
        let name = if parameter.name.is_empty() { String::new() } else { quoted(&parameter.name) };
        parameters.push(format!("{mode} {name} int4"));
    }
    let mut returns = String::new();
    if let Some(return_type) = &function.return_type {
        rows |= return_type.setof;
        let (_, name) = super::walk::qualified(&return_type.names);
        let value = match (name, results) {
            ("void" | "event_trigger", 0) => "void",
            (_, 1) => "int4",
            _ => "record",
        };
        if matches!(name, "trigger" | "event_trigger") {
            parameters.extend(["old", "new"].map(|name| format!("IN {name} record")));
            let texts =
                ["name", "when", "level", "op", "relname", "table_name", "table_schema", "event", "tag"];
            parameters.extend(texts.map(|name| format!("IN tg_{name} text")));
            parameters.extend(["tg_relid", "tg_nargs"].map(|name| format!("IN {name} int4")));
            parameters.push("IN tg_argv text[]".to_owned());
        }
        returns = format!("RETURNS {} {value}", if rows { "SETOF" } else { "" });
    }
    let mut tag = "body".to_owned();
    while body.contains(&format!("${tag}$")) {
        tag.push('_');
    }
    let object = if function.is_procedure { "PROCEDURE" } else { "FUNCTION" };
    let (_, name) = super::walk::qualified(&function.funcname);
    let (name, parameters) = (quoted(name), parameters.join(", "));
    format!("CREATE {object} {name}({parameters}) {returns} LANGUAGE plpgsql AS ${tag}${body}${tag}$")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text_and_grammar(expression: &Value) -> Option<(&str, Grammar)> {
    let grammar = match expression.get("parseMode").and_then(Value::as_i64) {
        None | Some(0) => Grammar::Sql,
        Some(mode) => Grammar::Plpgsql(mode),
    };
    Some((expression.get("query")?.as_str()?, grammar))
}

/// The text of each expression that a declaration of a PL/pgSQL body gives as a first value.
///
/// A DECLARE section goes to its BEGIN; each declaration ends with a semicolon, and its value follows
/// `:=`, `=` or DEFAULT. What a DECLARE elsewhere (an SQL command) brings up does no harm: it is read
/// twice.
fn declared_values(text: &str) -> Result<Vec<&str>, String> {
    let tokens = parser::scan(text)?;
    let mut values = Vec::new();
    let mut declaring = false;
    let mut depth = 0_usize;
    let mut start: Option<i32> = None;
    for token in &tokens {
        match token.token() {
            Token::Declare if start.is_none() => {
                declaring = true;
                depth = 0;
            }
            Token::BeginP if depth == 0 && start.is_none() => declaring = false,
            Token::Ascii40 => depth += 1,
            Token::Ascii41 => depth = depth.saturating_sub(1),
            Token::ColonEquals | Token::Ascii61 | Token::Default
                if declaring && depth == 0 && start.is_none() =>
            {
                start = Some(token.end);
            }
            Token::Ascii59 if depth == 0 => {
                if let Some(start) = start.take() {
                    let range = usize::try_from(start).ok().zip(usize::try_from(token.start).ok());
                    let value = range.and_then(|(start, end)| text.get(start..end));
                    values.push(value.ok_or("a token lies outside the text")?);
                }
            }
            _ => {}
        }
    }
    Ok(values)
}
