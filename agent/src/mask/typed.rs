//! Detectors over fields of a known type.

use super::scan::Rules;
use super::value::{Applied, Format};
use super::Fired;

pub(super) fn detect(
    rules: &Rules,
    type_oid: u32,
    format: Format,
    value: &[u8],
    out: &mut Vec<u8>,
    fired: &mut Fired,
) -> Option<Applied> {
    let _ = (type_oid, format);
    rules.mask(value, out, fired).map(|_| Applied::Value)
}
