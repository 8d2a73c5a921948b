//! `when:` expressions in CEL, compiled and checked when the policy is loaded.

use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, ExecutionError, Program, Value};
use jiff::Timestamp;

use super::Destination;
use super::decode::{Decode, Decoder, suggestion};
use super::facts::{
    CI_FIELDS, Facts, IDENTITY_FIELDS, VARIABLES, WhenError, destination_value, operation_value,
    subject_value, time_value,
};
use super::yaml::Node;
use crate::identity::{IdentityKind, Subject, Verified};

/// Longest expression in bytes.
const MAX_SOURCE: usize = 4096;
/// Deepest nesting of `all`, `exists`, `map` and the like.
const MAX_LOOPS: usize = 2;
const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "has",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "bool",
    "type",
    "dyn",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

const TYPES: &[&str] =
    &["int", "uint", "double", "string", "bytes", "bool", "list", "map", "null_type", "type"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression over all variables.
#[derive(Debug, Clone)]
pub(crate) struct When(Arc<Compiled>);

/// A compiled expression over what is known when a flow begins: `subject` and `destination`.
#[derive(Debug, Clone)]
pub(crate) struct FlowWhen(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    program: Program,
    uses: Uses,
}

/// Which variables an expression looks at, so that no others are made.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Uses {
    /// Pairs of a variable and a field; the field is empty where the variable is used as a whole.
    fields: Vec<(&'static str, String)>,
    loops: usize,
}

impl Uses {
    fn variable(&self, variable: &str) -> bool {
        self.fields.iter().any(|(v, _)| *v == variable)
    }

    fn field(&self, variable: &str, field: &str) -> bool {
        self.fields.iter().any(|(v, f)| *v == variable && (f.is_empty() || f == field))
    }
}

impl When {
    /// Whether it holds.
    pub(crate) fn holds(&self, facts: &Facts<'_>) -> Result<bool, WhenError> {
        self.0.holds(facts)
    }

    /// Its value may change with the hour.
    pub(crate) fn uses_time(&self) -> bool {
        self.0.uses.variable("time")
    }

    /// Its value may change with the bind parameters.
    pub(crate) fn uses_params(&self) -> bool {
        self.0.uses.field("operation", "params")
    }
}

impl FlowWhen {
    /// Whether it holds.
    pub(crate) fn holds(&self, subject: &Subject, destination: &Destination) -> Result<bool, WhenError> {
        let now = Timestamp::UNIX_EPOCH;
        self.0.holds(&Facts { subject, destination, operation: None, statement: None, now })
    }
}

impl Decode for When {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        decode(node, decoder, &["subject", "operation", "destination", "time"]).map(|c| Self(Arc::new(c)))
    }
}

impl Decode for FlowWhen {
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        decode(node, decoder, &["subject", "destination"]).map(|c| Self(Arc::new(c)))
    }
}

fn decode(node: &Node, decoder: &mut Decoder<'_>, variables: &[&str]) -> Option<Compiled> {
    let source = node.word().or_else(|| String::decode(node, decoder))?;
    match compile(&source, variables) {
        Ok(compiled) => Some(compiled),
        Err((message, help)) => {
            decoder.error_help(node.at, format!("`when`: {message}"), help);
            None
        }
    }
}

/// Compiles an expression that may use these variables. An error comes with what to write instead.
fn compile(source: &str, variables: &[&str]) -> Result<Compiled, (String, String)> {
    if source.len() > MAX_SOURCE {
        return Err((
            format!("the expression has {} bytes, more than {MAX_SOURCE}", source.len()),
            "split it into several rules".into(),
        ));
    }
    let program = ENV.compile(source).map_err(|errors| {
        let first = errors.errors.first();
        let place = first.map_or(String::new(), |e| format!(" at its column {}", e.pos.1.max(1)));
        let message = first.map_or_else(String::new, |e| e.msg.lines().next().unwrap_or_default().to_owned());
        (
            format!("this is no CEL expression: {message}{place}"),
            "write a condition such as `subject.user != \"root\"`; text stands in double quotes".to_owned(),
        )
    })?;
    let mut walk = Walk { variables, bound: Vec::new(), uses: Uses::default(), loops: 0 };
    walk.expression(program.expression())?;
    let uses = walk.uses;
    let compiled = Compiled { program, uses };
    compiled.try_out()?;
    Ok(compiled)
}

/// Goes over an expression: notes what it uses and finds names that nothing bears.
struct Walk<'a> {
    variables: &'a [&'a str],
    bound: Vec<&'a str>,
    uses: Uses,
    loops: usize,
}

impl<'a> Walk<'a> {
    fn expression(&mut self, expression: &'a IdedExpr) -> Result<(), (String, String)> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => {}
            Expr::Ident(name) => self.variable(name, &[])?,
            Expr::Select(select) => {
                let mut fields = vec![select.field.as_str()];
                let mut operand = &select.operand;
                while let Expr::Select(inner) = &operand.expr {
                    fields.push(&inner.field);
                    operand = &inner.operand;
                }
                fields.reverse();
                match &operand.expr {
                    Expr::Ident(name) => self.variable(name, &fields)?,
                    _ => self.expression(operand)?,
                }
            }
            Expr::Call(call) => {
                let named = call.func_name.starts_with(|c: char| c.is_ascii_alphabetic());
                if named && !FUNCTIONS.contains(&&*call.func_name) {
                    return Err((
                        format!("there is no function `{}`", call.func_name),
                        suggestion(&call.func_name, FUNCTIONS.iter().copied()),
                    ));
                }
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    self.expression(part)?;
                }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.expression(element)?;
                }
            }
            Expr::Map(map) => self.entries(&map.entries)?,
            Expr::Struct(structure) => self.entries(&structure.entries)?,
            Expr::Comprehension(comprehension) => {
                self.expression(&comprehension.iter_range)?;
                self.expression(&comprehension.accu_init)?;
                let depth = self.bound.len();
                self.bound.push(&comprehension.iter_var);
                self.bound.extend(comprehension.iter_var2.as_deref());
                self.bound.push(&comprehension.accu_var);
                self.loops += 1;
                self.uses.loops = self.uses.loops.max(self.loops);
                if self.loops > MAX_LOOPS {
                    return Err((
                        format!(
                            "more than {MAX_LOOPS} of `all`, `exists`, `map` and the like in one another"
                        ),
                        "split it into several rules".into(),
                    ));
                }
                self.expression(&comprehension.loop_cond)?;
                self.expression(&comprehension.loop_step)?;
                self.expression(&comprehension.result)?;
                self.loops -= 1;
                self.bound.truncate(depth);
            }
        }
        Ok(())
    }

    fn entries(&mut self, entries: &'a [cel::common::ast::IdedEntryExpr]) -> Result<(), (String, String)> {
        for entry in entries {
            match &entry.expr {
                EntryExpr::StructField(field) => self.expression(&field.value)?,
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key)?;
                    self.expression(&entry.value)?;
                }
            }
        }
        Ok(())
    }

    fn variable(&mut self, name: &str, fields: &[&str]) -> Result<(), (String, String)> {
        if self.bound.contains(&name) || (fields.is_empty() && TYPES.contains(&name)) {
            return Ok(());
        }
        let known = VARIABLES.iter().find(|(variable, _)| *variable == name);
        let Some((variable, known_fields)) = known.filter(|_| self.variables.contains(&name)) else {
            let message = match known {
                Some(_) => format!("`{name}` is not known when a mask is chosen"),
                None => format!("there is no variable `{name}`"),
            };
            return Err((message, suggestion(name, self.variables.iter().copied())));
        };
        if let Some(field) = fields.first()
            && !known_fields.contains(field)
        {
            return Err((
                format!("`{name}` has no field `{field}`"),
                suggestion(field, known_fields.iter().copied()),
            ));
        }
        if let ("subject", ["ci", field, ..]) = (name, fields)
            && !CI_FIELDS.contains(field)
        {
            return Err((
                format!("`subject.ci` has no field `{field}`"),
                suggestion(field, CI_FIELDS.iter().copied()),
            ));
        }
        if let ("subject", ["person" | "workload", field, ..]) = (name, fields)
            && !IDENTITY_FIELDS.contains(field)
        {
            return Err((
                format!("a verified identity has no field `{field}`"),
                suggestion(field, IDENTITY_FIELDS.iter().copied()),
            ));
        }
        let used = (*variable, fields.first().map_or_else(String::new, |field| (*field).to_owned()));
        if !self.uses.fields.contains(&used) {
            self.uses.fields.push(used);
        }
        Ok(())
    }
}

impl Compiled {
    fn holds(&self, facts: &Facts<'_>) -> Result<bool, WhenError> {
        let context = self.context(facts)?;
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err(WhenError::NotBoolean),
            // Not the error's own text where it would repeat values of the operation.
            Err(ExecutionError::NoSuchKey(key)) => Err(WhenError::Execution(format!("no such key: {key}"))),
            Err(ExecutionError::NoSuchOverload(error)) => Err(WhenError::Execution(error.to_string())),
            Err(ExecutionError::IndexOutOfBounds(_)) => {
                Err(WhenError::Execution("index out of bounds".to_owned()))
            }
            Err(_) => Err(WhenError::Execution("it could not be evaluated".to_owned())),
        }
    }

    /// Evaluates it once on made-up facts: an operator on the wrong types and a value that is no
    /// boolean show now, not on the first operation.
    fn try_out(&self) -> Result<(), (String, String)> {
        let identity = |kind| Some(Arc::new(Verified::example(kind)));
        let subject = Subject {
            login_uid: Some(0),
            login_session: Some(0),
            person: identity(IdentityKind::Person),
            workload: identity(IdentityKind::Workload),
            ..Subject::default()
        };
        let destination = Destination { address: ([127, 0, 0, 1], 5432).into(), hosts: Vec::new() };
        let operation = super::sample_operation();
        let facts = Facts {
            subject: &subject,
            destination: &destination,
            operation: Some(&operation),
            statement: operation.script.statements.first(),
            now: Timestamp::UNIX_EPOCH,
        };
        let Ok(context) = self.context(&facts) else { return Ok(()) };
        match self.program.execute(&context) {
            Ok(Value::Bool(_)) => Ok(()),
            Ok(_) => Err((
                "its value is no boolean".to_owned(),
                "compare it with something, such as `… == \"main\"`".to_owned(),
            )),
            Err(
                error @ (ExecutionError::NoSuchOverload(_)
                | ExecutionError::UnsupportedBinaryOperator(..)
                | ExecutionError::ValuesNotComparable(..)
                | ExecutionError::UnexpectedType { .. }
                | ExecutionError::UnsupportedTargetType { .. }
                | ExecutionError::NotSupportedAsMethod { .. }
                | ExecutionError::InvalidArgumentCount { .. }),
            ) => Err((error.to_string(), "use values of the types that it takes".to_owned())),
            Err(ExecutionError::UndeclaredReference(name)) => {
                Err((format!("`{name}` is not known"), suggestion(&name, FUNCTIONS.iter().copied())))
            }
            // What the made-up facts do not have, real ones may.
            Err(_) => Ok(()),
        }
    }

    fn context(&self, facts: &Facts<'_>) -> Result<Context<'static, 'static>, WhenError> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        let uses = |variable| move |field: &str| self.uses.field(variable, field);
        if self.uses.variable("subject") {
            context.add_variable_from_value("subject", subject_value(facts.subject, uses("subject")));
        }
        if self.uses.variable("operation")
            && let Some(operation) = facts.operation
        {
            let nested = self.uses.loops > 1;
            let value = operation_value(operation, facts.statement, uses("operation"), nested)?;
            context.add_variable_from_value("operation", value);
        }
        if self.uses.variable("destination") {
            context.add_variable_from_value("destination", destination_value(facts.destination));
        }
        if self.uses.variable("time") {
            context.add_variable_from_value("time", time_value(facts.now));
        }
        Ok(context)
    }
}

macro_rules! cel_schema {
    ($($type:ident: $description:literal;)*) => {
        $(impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": ["string", "boolean"],
                    "maxLength": MAX_SOURCE,
                    "description": $description,
                })
            }
        })*
    };
}

cel_schema! {
    When: "A CEL expression over `subject`, `operation`, `destination` and `time`.";
    FlowWhen: "A CEL expression over `subject` and `destination`.";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::yaml;

    fn decode_when(text: &str) -> Result<When, String> {
        let mut decoder = Decoder::new("t");
        let node = yaml::parse("t", &serde_json::to_string(text).unwrap()).unwrap();
        When::decode(&node, &mut decoder).ok_or_else(|| decoder.problems[0].to_string())
    }

    fn holds(text: &str) -> Result<bool, WhenError> {
        let mut subject = Subject { user: "deploy".into(), uid: 1001, ..Subject::default() };
        subject.ci.branch = "main".into();
        subject.ci.variables.insert("CI_STAGE".into(), "deploy".into());
        let destination =
            Destination { address: "[::ffff:10.0.0.1]:5432".parse().unwrap(), hosts: vec!["db".into()] };
        let mut operation = crate::policy::sample_operation();
        operation.params = [Some("7".to_owned()), None].into();
        let facts = Facts {
            subject: &subject,
            destination: &destination,
            operation: Some(&operation),
            statement: operation.script.statements.first(),
            now: "2026-01-05T22:10:00Z".parse().unwrap(),
        };
        decode_when(text).unwrap().holds(&facts)
    }

    #[test]
    fn every_variable_has_its_value() {
        for text in [
            "subject.ci.branch == \"main\"",
            "!(subject.ci.branch != \"main\")",
            "subject.user.startsWith('dep') && subject.uid > 1000 && subject.script == ''",
            "subject.login_uid == null && subject.ancestors.size() == 0",
            "subject.ci.variables['CI_STAGE'] == 'deploy' && 'CI_STAGE' in subject.ci.variables",
            "operation.kind == 'select' && 'select' in operation.kinds && operation.protocol == 'postgres'",
            "operation.params[0] == '7' && operation.params[1] == null",
            "operation.params.exists(p, p == '7')",
            "operation.where == '' && operation.limit == 'missing' && !operation.dynamic",
            "destination.address == '10.0.0.1' && destination.port == 5432 && 'db' in destination.hosts",
            "time.hour == 22 && time.weekday == 'mon' && time.date == '2026-01-05' && time.minute == 10",
            "timestamp(time.timestamp).getFullYear() == 2026 && time.unix > 0",
            "operation.text.matches('(?i)select') && type(operation.text) == string",
        ] {
            assert_eq!(holds(text), Ok(true), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_an_error() {
        assert!(holds("operation.params[5] == 'x'").is_err());
        assert!(holds("subject.ci.variables['NONE'] == 'x'").is_err());
        assert!(holds("subject.login_uid > 5").is_err());
    }

    #[test]
    fn mistakes_show_when_the_policy_is_loaded() {
        for (text, what) in [
            ("subject.ci.brnch != 'main'", "did you mean `branch`"),
            ("sbject.user == 'x'", "did you mean `subject`"),
            ("subject.usr == 'x'", "did you mean `user`"),
            ("operation.tables == []", "has no field `tables`"),
            ("subject.user.startWith('x')", "did you mean `startsWith`"),
            ("subject.user", "no boolean"),
            ("subject.user + 1 == 'x'", "use values of the types"),
            ("subject.uid.startsWith('x')", "overload"),
            ("subject.user == ", "no CEL expression"),
            ("", "no CEL expression"),
            ("x.exists(y, true)", "no variable `x`"),
            (&"(".repeat(3000), "no CEL expression"),
            (&"1+".repeat(3000), "more than 4096"),
            (
                "operation.params.exists(a, operation.params.exists(b, operation.params.exists(c, true)))",
                "in one another",
            ),
        ] {
            let error = decode_when(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn masks_know_no_operation() {
        let mut decoder = Decoder::new("t");
        let node = yaml::parse("t", "operation.user == 'x'").unwrap();
        assert!(FlowWhen::decode(&node, &mut decoder).is_none());
        assert!(decoder.problems[0].message.contains("not known when a mask is chosen"));
    }

    #[test]
    fn what_it_depends_on_is_known() {
        let uses = |text| {
            let when = decode_when(text).unwrap();
            (when.uses_time(), when.uses_params())
        };
        assert_eq!(uses("subject.user == 'x'"), (false, false));
        assert_eq!(uses("time.hour > 7"), (true, false));
        assert_eq!(uses("operation.params.size() > 7"), (false, true));
        assert_eq!(uses("operation == null"), (false, true), "the whole variable holds the parameters");
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in "[a-z().\\[\\]{}'\"!=<>&|?:+*/,0-9 \\\\\u{e9}-]{0,60}") {
            let _ = compile(&text, &["subject", "operation"]);
        }

        #[test]
        fn nor_does_one_of_words(words in proptest::collection::vec(
            prop_oneof![
                Just("subject"), Just("operation.params"), Just(".exists(x,"), Just("x"), Just(")"), Just("("),
                Just("=="), Just("'a'"), Just("has("), Just("[0]"), Just("&&"), Just("?"), Just(":"), Just("in"),
                Just("."), Just("map"), Just("1"), Just("-9223372036854775808"), Just("{"), Just("}"), Just("null"),
            ], 0..14)) {
            let _ = compile(&words.join(" "), &["subject", "operation"]);
        }
    }
}
