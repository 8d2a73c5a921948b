//! The data format of a COPY to or from the client.

use pg_query::NodeRef;
use pg_query::protobuf::{CopyStmt, DefElem};

use super::utility::option_text;
use super::walk::{node_of, relation, string};
use super::{Copy, CopyFormat};

/// How the data of `copy` travels. An option that the server would refuse has no effect here.
pub(super) fn describe(copy: &CopyStmt) -> Copy {
    let options: Vec<&DefElem> = copy
        .options
        .iter()
        .filter_map(|option| match node_of(Some(option)) {
            Some(NodeRef::DefElem(option)) => Some(option),
            _ => None,
        })
        .collect();
    let option = |name: &str| options.iter().rev().find(|option| option.defname == name);
    let text = |name: &str| option(name).and_then(|option| option_text(option));
    let byte = |name: &str| text(name).and_then(|text| text.bytes().next());

    let format = match text("format").map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => CopyFormat::Csv,
        Some("binary") => CopyFormat::Binary,
        _ => CopyFormat::Text,
    };
    let csv = format == CopyFormat::Csv;
    let quote = byte("quote").unwrap_or(b'"');
    let header = option("header").is_some_and(|header| {
        !text("header")
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "off" | "false" | "0"))
            || header.arg.is_none()
    });
    Copy {
        to_client: !copy.is_from,
        relation: copy.relation.as_ref().map(relation),
        columns: copy.attlist.iter().filter_map(string).map(str::to_owned).collect(),
        format,
        delimiter: byte("delimiter").unwrap_or(if csv { b',' } else { b'\t' }),
        null: text("null").unwrap_or(if csv { "" } else { "\\N" }).to_owned(),
        quote,
        escape: byte("escape").unwrap_or(quote),
        header,
    }
}
