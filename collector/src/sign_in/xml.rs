//! XML as SAML needs it: parsed strictly, and in its canonical form (exclusive, without comments).

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::{Document, Node, NodeType, ParsingOptions};

/// The longest document, in bytes.
pub(super) const MOST_BYTES: usize = 256 << 10;
/// The most nodes in one.
const MOST_NODES: u32 = 20_000;
/// The deepest nesting.
const DEEPEST: usize = 60;
/// The most prefixes that namespaces are declared for: the parser copies those in force to each element that
/// declares its own, and looks through them for each name. Declarations may be more: some providers repeat two of
/// them for each group.
const MOST_NAMESPACES: usize = 60;
/// The longest prefix, in characters.
const LONGEST_PREFIX: usize = 100;
/// The most equals signs, and so attributes: the parser compares each with all others of its element.
const MOST_EQUALS: usize = 2000;
/// The most tags, opening and closing.
const MOST_TAGS: usize = 12_000;

/// A document that is not looked at.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct XmlError(pub(super) String);

fn error(text: impl Into<String>) -> XmlError {
    XmlError(text.into())
}

/// Parses a document without a DTD (so without entities but the five of XML itself), without processing
/// instructions, of bounded size and depth.
pub(super) fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    if text.len() > MOST_BYTES {
        return Err(error(format!("it is longer than {MOST_BYTES} bytes")));
    }
    if text.contains("<!DOCTYPE") || text.contains("<!ENTITY") {
        return Err(error("it has a document type declaration"));
    }
    let count = |wanted| text.bytes().filter(|byte| *byte == wanted).count();
    if count(b'=') > MOST_EQUALS {
        return Err(error("it has too many attributes"));
    }
    if count(b'<') > MOST_TAGS {
        return Err(error("it has too many elements"));
    }
    check_prefixes(text)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, entity_resolver: None };
    let document = Document::parse_with_options(text, options)
        .map_err(|wrong| error(format!("it is no XML: {wrong}")))?;
    // Depth first, so no deeper than one child at a time beyond the limit.
    let mut open = vec![(document.root(), 0)];
    while let Some((node, depth)) = open.pop() {
        if depth > DEEPEST {
            return Err(error("it is nested too deeply"));
        }
        if node.is_pi() {
            return Err(error("it has a processing instruction"));
        }
        open.extend(node.children().map(|child| (child, depth + 1)));
    }
    Ok(document)
}

/// Counts the prefixes that follow `xmlns` anywhere, before anything is parsed.
fn check_prefixes(text: &str) -> Result<(), XmlError> {
    let mut known = BTreeSet::new();
    for (at, found) in text.match_indices("xmlns") {
        let rest = text.get(at + found.len()..).unwrap_or_default();
        let end = rest
            .char_indices()
            .take(LONGEST_PREFIX)
            .find(|(_, c)| c.is_ascii_whitespace() || *c == '=')
            .ok_or_else(|| error("a namespace has a very long prefix"))?;
        known.insert(rest.get(..end.0).unwrap_or_default());
        if known.len() > MOST_NAMESPACES {
            return Err(error("it declares too many namespaces"));
        }
    }
    Ok(())
}

/// The elements directly in `node`.
pub(super) fn elements<'n, 'i: 'n>(node: Node<'n, 'i>) -> impl Iterator<Item = Node<'n, 'i>> {
    node.children().filter(Node::is_element)
}

/// Whether it is the element `name` of the namespace `space`.
pub(super) fn is(node: Node<'_, '_>, space: &str, name: &str) -> bool {
    let tag = node.tag_name();
    node.is_element() && tag.namespace() == Some(space) && tag.name() == name
}

/// The one element of this name directly in `node`; none when there is none.
pub(super) fn one<'n, 'i>(
    node: Node<'n, 'i>,
    space: &str,
    name: &str,
) -> Result<Option<Node<'n, 'i>>, XmlError> {
    let mut found = elements(node).filter(|child| is(*child, space, name));
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        _ => Err(error(format!("it has {name} twice"))),
    }
}

/// The one element of this name directly in `node`.
pub(super) fn the<'n, 'i>(node: Node<'n, 'i>, space: &str, name: &str) -> Result<Node<'n, 'i>, XmlError> {
    one(node, space, name)?.ok_or_else(|| error(format!("it has no {name}")))
}

/// All text of an element that has nothing but text in it. Comments between are left out, the text goes on: it
/// must not end where someone has put a comment.
pub(super) fn text(node: Node<'_, '_>) -> Result<String, XmlError> {
    let mut whole = String::new();
    for child in node.children() {
        match child.node_type() {
            NodeType::Text => whole.push_str(child.text().unwrap_or_default()),
            NodeType::Comment => {}
            _ => return Err(error(format!("{} has more than text in it", node.tag_name().name()))),
        }
    }
    Ok(whole.trim().to_owned())
}

/// The canonical form of `node` without `but`: exclusive XML canonicalisation 1.0 without comments. `inclusive`
/// are the prefixes of its InclusiveNamespaces.
pub(super) fn canonical<'n>(
    node: Node<'n, 'n>,
    but: Option<Node<'_, '_>>,
    inclusive: &[&'n str],
) -> Result<String, XmlError> {
    let mut out = String::new();
    element(node, but, inclusive, &mut BTreeMap::new(), &mut out, 0)?;
    Ok(out)
}

/// The prefix of the name that stands at the beginning of `text`; empty when it has none. The parser resolves
/// prefixes and forgets them.
fn prefix(text: &str) -> &str {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/' | '=')).unwrap_or(text.len());
    text.get(..end).and_then(|name| name.split_once(':')).map_or("", |(prefix, _)| prefix)
}

/// Writes an element. `declared` are the namespaces that are declared around it, and are the same ones after it:
/// they are not copied for each element.
fn element<'n>(
    node: Node<'n, 'n>,
    but: Option<Node<'_, '_>>,
    inclusive: &[&'n str],
    declared: &mut BTreeMap<&'n str, &'n str>,
    out: &mut String,
    depth: usize,
) -> Result<(), XmlError> {
    // The parser has made sure of it; here it is made sure for this recursion.
    if depth > DEEPEST {
        return Err(error("it is nested too deeply"));
    }
    let source = node.document().input_text();
    let lost = || error("a name cannot be found in the document");
    let own = prefix(source.get(node.range().start + 1..).ok_or_else(lost)?);
    let mut attributes = Vec::new();
    let mut used = vec![own];
    for attribute in node.attributes() {
        let place = prefix(source.get(attribute.range_qname()).ok_or_else(lost)?);
        if !place.is_empty() {
            used.push(place);
        }
        attributes.push((
            attribute.namespace().unwrap_or_default(),
            attribute.name(),
            place,
            attribute.value(),
        ));
    }
    attributes.sort_by_key(|(space, name, ..)| (*space, *name));
    used.extend(inclusive.iter().map(|prefix| if *prefix == "#default" { "" } else { prefix }));
    used.sort_unstable();
    used.dedup();

    let mut before = Vec::new();
    let mut spaces = String::new();
    for prefix in used {
        if prefix == "xml" {
            continue;
        }
        let space = match (prefix, node.lookup_namespace_uri(Some(prefix).filter(|p| !p.is_empty()))) {
            (_, Some(space)) => space,
            ("", None) => "",
            // Named in InclusiveNamespaces, and not in force here.
            (_, None) => continue,
        };
        if declared.get(prefix).copied().unwrap_or_default() == space {
            continue;
        }
        before.push((prefix, declared.insert(prefix, space)));
        spaces.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        spaces.push_str(prefix);
        spaces.push_str("=\"");
        escape(space, true, &mut spaces);
        spaces.push('"');
    }

    let tag = |out: &mut String| {
        if !own.is_empty() {
            out.push_str(own);
            out.push(':');
        }
        out.push_str(node.tag_name().name());
    };
    out.push('<');
    tag(out);
    out.push_str(&spaces);
    for (_, name, prefix, value) in attributes {
        out.push(' ');
        if !prefix.is_empty() {
            out.push_str(prefix);
            out.push(':');
        }
        out.push_str(name);
        out.push_str("=\"");
        escape(value, true, out);
        out.push('"');
    }
    out.push('>');
    for child in node.children() {
        match child.node_type() {
            NodeType::Element if but == Some(child) => {}
            NodeType::Element => element(child, but, inclusive, declared, out, depth + 1)?,
            NodeType::Text => escape(child.text().unwrap_or_default(), false, out),
            NodeType::Comment => {}
            NodeType::PI | NodeType::Root => return Err(error("it has a processing instruction")),
        }
    }
    out.push_str("</");
    tag(out);
    out.push('>');
    for (prefix, before) in before {
        match before {
            Some(space) => declared.insert(prefix, space),
            None => declared.remove(prefix),
        };
    }
    Ok(())
}

/// Text as the canonical form has it.
fn escape(text: &str, in_attribute: bool, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' if !in_attribute => out.push_str("&gt;"),
            '"' if in_attribute => out.push_str("&quot;"),
            '\t' if in_attribute => out.push_str("&#x9;"),
            '\n' if in_attribute => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            other => out.push(other),
        }
    }
}

/// Text to be put into an attribute or an element.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            other => escape(other.encode_utf8(&mut [0; 4]), true, &mut out),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::forge::laborious;
    use super::*;

    fn of(text: &str, path: &[&str], inclusive: &[&str]) -> String {
        let document = parse(text).unwrap();
        let mut node = document.root_element();
        for name in path {
            node = elements(node).find(|child| child.tag_name().name() == *name).unwrap();
        }
        canonical(node, None, inclusive).unwrap()
    }

    #[test]
    fn the_canonical_form_is_that_of_the_recommendation() {
        // What of the surroundings is used stands where it is used first, in order; nothing else does.
        let text = "<?xml version=\"1.0\"?>\n<n0:a xmlns:n0='urn:0' xmlns:n3='urn:3' xmlns='urn:d'>\
            <n1:b xmlns:n1=\"urn:1\" z='1' n3:y='2' a=\"3\" xmlns:un='urn:un'><n0:c/><n1:d><e xmlns=''/></n1:d></n1:b></n0:a>";
        assert_eq!(
            of(text, &["b"], &[]),
            "<n1:b xmlns:n1=\"urn:1\" xmlns:n3=\"urn:3\" a=\"3\" z=\"1\" n3:y=\"2\">\
             <n0:c xmlns:n0=\"urn:0\"></n0:c><n1:d><e></e></n1:d></n1:b>"
        );
        // Prefixes that values use are named in InclusiveNamespaces.
        assert_eq!(
            of("<a xmlns:xs='urn:xs'><b xmlns:p='urn:p' t='xs:string'/></a>", &["b"], &["xs", "nowhere"]),
            "<b xmlns:xs=\"urn:xs\" t=\"xs:string\"></b>"
        );
        assert_eq!(
            of(
                "<a xmlns='urn:a'><b:b xmlns:b='urn:b'><c/><d xmlns=''><e/></d></b:b></a>",
                &["b"],
                &["#default"]
            ),
            "<b:b xmlns=\"urn:a\" xmlns:b=\"urn:b\"><c></c><d xmlns=\"\"><e></e></d></b:b>"
        );
        // A default namespace that was undone stays undone once, and two prefixes of one namespace stay two.
        assert_eq!(
            of(
                "<a xmlns='urn:a'><b xmlns=''><c/></b><x:d xmlns:x='urn:a' xmlns:y='urn:a'><y:e/></x:d></a>",
                &[],
                &[]
            ),
            "<a xmlns=\"urn:a\"><b xmlns=\"\"><c></c></b><x:d xmlns:x=\"urn:a\"><y:e xmlns:y=\"urn:a\"></y:e></x:d></a>"
        );
        // What one element has declared is not declared for the next.
        assert_eq!(
            of(
                "<a><p:b xmlns:p='urn:1'/><p:b xmlns:p='urn:2'><p:c xmlns:p='urn:1'/><p:d/></p:b><p:e xmlns:p='urn:1'/></a>",
                &[],
                &[]
            ),
            "<a><p:b xmlns:p=\"urn:1\"></p:b><p:b xmlns:p=\"urn:2\"><p:c xmlns:p=\"urn:1\"></p:c><p:d></p:d></p:b>\
             <p:e xmlns:p=\"urn:1\"></p:e></a>"
        );
        // Text, attributes, line ends, references, sections, comments.
        assert_eq!(
            of(
                "<a b='&lt;&#9;&#10;&#13;&quot;&apos;&gt;&amp;\tx'>1\r\n&#13;&gt;<![CDATA[<&]]><!-- no -->&quot;<b xml:lang='de'/></a>",
                &[],
                &[]
            ),
            "<a b=\"&lt;&#x9;&#xA;&#xD;&quot;'>&amp; x\">1\n&#xD;&gt;&lt;&amp;\"<b xml:lang=\"de\"></b></a>"
        );
    }

    #[test]
    fn hostile_documents_are_not_looked_at() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        let wide = format!("<a>{}</a>", "<b/>".repeat(30_000));
        let (attributes, spaces) = laborious();
        assert!(attributes.len() <= MOST_BYTES && spaces.len() <= MOST_BYTES);
        let long = format!("<a xmlns:{}='urn:a'/>", "p".repeat(200));
        // Prefixes with the word itself in them.
        let joined: String =
            (0..100).map(|at| format!(" xmlns:a{}xmlns{}='urn:a'", at / 10, at % 10)).collect();
        for (text, why) in [
            ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
            ("<!DOCTYPE a><a/>", "document type"),
            ("<a>&b;</a>", "no XML"),
            ("<a><?b c?></a>", "processing instruction"),
            ("<?xml-stylesheet href='x'?><a/>", "processing instruction"),
            ("<a b='1' b='2'/>", "no XML"),
            ("<a xmlns:x='urn:x' xmlns:y='urn:x' x:b='1' y:b='2'/>", "no XML"),
            ("<a><x:b/></a>", "no XML"),
            ("<a></a><b></b>", "no XML"),
            ("<a>", "no XML"),
            ("", "no XML"),
            (&deep, "too deeply"),
            (&wide, "too many elements"),
            (&attributes, "too many attributes"),
            (&spaces, "too many namespaces"),
            (&format!("<a{joined}/>"), "too many namespaces"),
            (&long, "very long prefix"),
            (&format!("<a>{}</a>", "x".repeat(MOST_BYTES)), "longer than"),
        ] {
            let error = parse(text).expect_err(&text.chars().take(80).collect::<String>()).to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
    }

    #[test]
    fn many_groups_with_declarations_of_their_own_are_read() {
        let value = "<v xmlns:xs='urn:xs' xmlns:xsi='urn:xsi' xsi:type='xs:string'>group</v>";
        let document = format!("<a>{}</a>", value.repeat(600));
        assert_eq!(elements(parse(&document).unwrap().root_element()).count(), 600);
        let document = format!("<a>{}</a>", "<v>group</v>".repeat(5000));
        assert_eq!(elements(parse(&document).unwrap().root_element()).count(), 5000);
    }

    #[test]
    fn text_does_not_end_at_a_comment() {
        let document = parse("<a>user@example.com<!-- x -->.evil.example</a>").unwrap();
        assert_eq!(text(document.root_element()).unwrap(), "user@example.com.evil.example");
        let document = parse("<a>user<b/></a>").unwrap();
        assert!(text(document.root_element()).is_err());
    }
}
