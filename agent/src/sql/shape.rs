//! Texts that differ in plain constants alone: `WHERE id = 17` and `WHERE id = 18` are read once.
//!
//! A text's *shape* has parameters where its numbers and strings stood. The shape is parsed, and where
//! every one of those places is such that nothing known of the statement depends on the value there
//! ([`values_do_not_matter`]), the shape's script is that of every text of that shape. The places are
//! listed, not the exceptions: whatever is not listed is parsed each time.

use pg_query::protobuf::{AExpr, AExprKind, BoolExprType, Node, RawStmt, ResTarget, SelectStmt};
use pg_query::{NodeEnum, NodeRef};

use super::Script;
use super::tree::children;
use super::walk::{node_of, qualified};

/// Longer texts, in bytes, are not worth it: statements of many rows have seldom the same shape.
const MAX_TEXT: usize = 4 << 10;

/// The most constants in a text that is given a shape.
const MAX_CONSTANTS: usize = 64;

/// A text with its constants taken out.
#[derive(Debug)]
pub(super) struct Shape<'t> {
    /// The text with `$1`, `$2` … for the constants.
    pub(super) template: String,
    /// The constants as they were written.
    constants: Vec<&'t str>,
}

impl<'t> Shape<'t> {
    /// The shape of `text`; `None` where it has no constants, or anything that would need the server's
    /// whole lexer to find where constants begin and end (parameters, comments, backslashes, dollar
    /// quotes, strings with a prefix, numbers that are not plain decimals).
    pub(super) fn of(text: &'t str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = text.as_bytes();
        let at = |index: usize| bytes.get(index).copied().unwrap_or(b' ');
        let mut template = String::with_capacity(text.len() + 16);
        let mut constants = Vec::new();
        let mut copied = 0;
        let mut here = 0;
        while here < bytes.len() {
            let start = here;
            match at(here) {
                b'$' | b'\\' => return None,
                b'-' if at(here + 1) == b'-' => return None,
                b'/' if at(here + 1) == b'*' => return None,
                // `U&'…'` and `U&"…"`.
                b'&' if matches!(at(here + 1), b'\'' | b'"') => return None,
                b'.' if at(here + 1).is_ascii_digit() => return None,
                b'"' => here = end_of_quoted(bytes, here)?,
                byte if is_word(byte) && !byte.is_ascii_digit() => {
                    while is_word(at(here)) {
                        here += 1;
                    }
                    // `E'…'`, `B'…'` and the like; `$` may stand within a name.
                    if matches!(at(here), b'\'' | b'$') {
                        return None;
                    }
                }
                byte if byte.is_ascii_digit() || byte == b'\'' => {
                    if byte == b'\'' {
                        here = end_of_quoted(bytes, here)?;
                    } else {
                        here = end_of_number(bytes, here)?;
                    }
                    if constants.len() == MAX_CONSTANTS {
                        return None;
                    }
                    template.push_str(text.get(copied..start)?);
                    constants.push(text.get(start..here)?);
                    template.push('$');
                    template.push_str(itoa(constants.len(), &mut [0; 3]));
                    copied = here;
                }
                _ => here += 1,
            }
        }
        if constants.is_empty() {
            return None;
        }
        template.push_str(text.get(copied..)?);
        Some(Self { template, constants })
    }

    /// How many constants were taken out.
    pub(super) fn constants(&self) -> usize {
        self.constants.len()
    }

    /// The script of this text, made from that of its template.
    pub(super) fn fill(&self, script: &Script) -> Script {
        let mut script = script.clone();
        for statement in &mut script.statements {
            let mut parts = statement.text.split('$');
            let mut text = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let digits = part.bytes().take_while(u8::is_ascii_digit).count();
                let (number, rest) = part.split_at(digits);
                let number = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
                text.push_str(number.and_then(|number| self.constants.get(number)).copied().unwrap_or("$"));
                text.push_str(rest);
            }
            statement.text = text;
        }
        script
    }
}

/// A byte of an identifier, keyword or number.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// After the closing quote of what is quoted from `start`. A quote within stands doubled.
fn end_of_quoted(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = *bytes.get(start)?;
    let mut here = start + 1;
    loop {
        match *bytes.get(here)? {
            b'\\' => return None,
            byte if byte == quote && bytes.get(here + 1) == Some(&quote) => here += 2,
            byte if byte == quote => return Some(here + 1),
            _ => here += 1,
        }
    }
}

/// After the digits, with or without a fraction, from `start`.
fn end_of_number(bytes: &[u8], start: usize) -> Option<usize> {
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut here = start + digits(start);
    if bytes.get(here) == Some(&b'.') {
        let fraction = digits(here + 1);
        if fraction == 0 {
            return None;
        }
        here += 1 + fraction;
    }
    let next = bytes.get(here).copied().unwrap_or(b' ');
    (!is_word(next) && !matches!(next, b'.' | b'$' | b'\'')).then_some(here)
}

/// `number` in decimal, which has at most three digits.
fn itoa(mut number: usize, buffer: &mut [u8; 3]) -> &str {
    let mut start = buffer.len();
    for place in buffer.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        start -= 1;
        if number == 0 {
            break;
        }
    }
    buffer.get(start..).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
}

/// Whether the facts about the template's statement are the same whatever the constants were: every
/// parameter stands where its value is neither folded, nor compared with another, nor read as a name.
pub(super) fn values_do_not_matter(statements: &[RawStmt], constants: usize) -> bool {
    let [statement] = statements else { return false };
    let Some(node) = node_of(statement.stmt.as_deref()) else { return false };
    let mut free = 0;
    match node {
        NodeRef::SelectStmt(_) | NodeRef::DeleteStmt(_) => {}
        NodeRef::InsertStmt(insert) => {
            let rows = match node_of(insert.select_stmt.as_deref()) {
                Some(NodeRef::SelectStmt(select)) => &select.values_lists[..],
                _ => &[],
            };
            free += rows.iter().map(|row| constants_of(Some(row))).sum::<usize>();
        }
        NodeRef::UpdateStmt(update) => {
            free += update.target_list.iter().filter(|target| sets_plainly(target)).count();
        }
        _ => return false,
    }
    count(node, false, 0, &mut free);
    free == constants
}

/// Counts the parameters below `node` that stand beside a column in a comparison, or that bound rows.
/// Below OR and NOT none counts: arms are compared with one another there.
fn count(node: NodeRef<'_>, compared: bool, depth: usize, free: &mut usize) {
    // A template is short, but what it nests may still be deep; what is not counted is not free.
    if depth > 64 {
        return;
    }
    let mut below = compared;
    match node {
        NodeRef::BoolExpr(expression) => below |= expression.boolop() != BoolExprType::AndExpr,
        NodeRef::CaseExpr(_) | NodeRef::CoalesceExpr(_) | NodeRef::BooleanTest(_) | NodeRef::NullTest(_) => {
            below = true;
        }
        NodeRef::AExpr(expression) => {
            if !compared {
                *free += beside_a_column(expression);
            }
            below = true;
        }
        NodeRef::SubLink(link) => below |= link.testexpr.is_some() && !is_column(link.testexpr.as_deref()),
        NodeRef::SelectStmt(SelectStmt { limit_count, limit_offset, .. }) if !compared => {
            let bounds = [limit_count, limit_offset];
            *free += bounds.iter().filter(|bound| is_constant(bound.as_deref())).count();
        }
        _ => {}
    }
    children(node, &mut |child| count(child, below, depth + 1, free));
}

/// The constants of `column < constant` or `column IN (constant, …)`.
fn beside_a_column(expression: &AExpr) -> usize {
    let (left, right) = (expression.lexpr.as_deref(), expression.rexpr.as_deref());
    let name = qualified(&expression.name).1;
    match expression.kind() {
        AExprKind::AexprOp if matches!(name, "=" | "<" | ">" | "<=" | ">=" | "<>") => {
            let pair = (is_column(left) && is_constant(right)) || (is_constant(left) && is_column(right));
            usize::from(pair)
        }
        AExprKind::AexprIn if is_column(left) => constants_of(right),
        _ => 0,
    }
}

/// `SET column = constant` or `SET column = column + constant`.
fn sets_plainly(target: &Node) -> bool {
    let Some(NodeRef::ResTarget(ResTarget { val: Some(value), .. })) = node_of(Some(target)) else {
        return false;
    };
    if is_constant(Some(value)) {
        return true;
    }
    let Some(NodeRef::AExpr(expression)) = node_of(Some(value)) else { return false };
    expression.kind() == AExprKind::AexprOp
        && matches!(qualified(&expression.name).1, "+" | "-")
        && is_column(expression.lexpr.as_deref())
        && is_constant(expression.rexpr.as_deref())
}

/// The constants that are elements of a list themselves.
fn constants_of(list: Option<&Node>) -> usize {
    match node_of(list) {
        Some(NodeRef::List(list)) => list.items.iter().filter(|item| is_constant(Some(item))).count(),
        _ => 0,
    }
}

fn is_column(node: Option<&Node>) -> bool {
    matches!(node_of(node), Some(NodeRef::ColumnRef(_)))
}

/// A parameter, with a sign or without.
fn is_constant(node: Option<&Node>) -> bool {
    match node.and_then(|node| node.node.as_ref()) {
        Some(NodeEnum::ParamRef(_)) => true,
        Some(NodeEnum::AExpr(sign)) => {
            sign.kind() == AExprKind::AexprOp
                && sign.lexpr.is_none()
                && qualified(&sign.name).1 == "-"
                && matches!(node_of(sign.rexpr.as_deref()), Some(NodeRef::ParamRef(_)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Option<String> {
        Shape::of(text).map(|shape| shape.template)
    }

    #[test]
    fn plain_constants_become_parameters() {
        for (text, shape) in [
            ("select a from t where id=17", "select a from t where id=$1"),
            ("select a1 from t2 where x = -1.50 and y>'it''s'", "select a1 from t2 where x = -$1 and y>$2"),
            ("insert into \"T 1\" values (1,'a','')", "insert into \"T 1\" values ($1,$2,$3)"),
            ("select 'é' limit 5;", "select $1 limit $2;"),
        ] {
            assert_eq!(template(text).as_deref(), Some(shape), "{text}");
        }
    }

    #[test]
    fn what_needs_the_whole_lexer_has_no_shape() {
        for text in [
            "select a from t",
            "select 1 -- 2",
            "select /* 1 */ 2",
            "select $1, 2",
            "select $$a$$, 1",
            "select a$b, 1",
            "select E'a', 1",
            "select U&'a', 1",
            "select U&\"a\", 1",
            "select B'1'",
            "select 'a\\', 1",
            "select 'open, 1",
            "select \"open, 1",
            "select .5",
            "select 1.",
            "select 1e5",
            "select 0x1F",
            "select 1_000",
            "select 1a",
            "select 1'a'",
        ] {
            assert_eq!(template(text), None, "{text}");
        }
    }

    #[test]
    fn a_filled_template_is_the_text() {
        let text =
            "select a from t where id = 17 and n = 'x$1y' and m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)";
        let shape = Shape::of(text).unwrap();
        let script = Script::unparsed(&shape.template, "");
        assert_eq!(shape.fill(&script).statements[0].text, text);
    }
}
