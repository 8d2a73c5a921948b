//! What templates call on values, after `|`.

#![expect(unreachable_pub, reason = "the attribute makes public items out of these")]

use askama::filters::Safe;
use askama::{Result, Values};

use super::display;

/// A whole number, or a reference to one.
pub(super) trait Number {
    fn number(&self) -> i64;
}

impl Number for i64 {
    fn number(&self) -> i64 {
        *self
    }
}

impl Number for u64 {
    fn number(&self) -> i64 {
        i64::try_from(*self).unwrap_or(i64::MAX)
    }
}

impl<N: Number + ?Sized> Number for &N {
    fn number(&self) -> i64 {
        (**self).number()
    }
}

#[askama::filter_fn]
pub(super) fn time(ns: impl Number, _: &dyn Values) -> Result<Safe<String>> {
    // Both are made of digits and fixed letters.
    let (machine, human) = (display::machine_time(ns.number()), display::time(ns.number()));
    Ok(Safe(format!("<time datetime=\"{machine}\">{human}</time>")))
}

#[askama::filter_fn]
pub(super) fn ago(ns: impl Number, _: &dyn Values, now: &i64) -> Result<String> {
    Ok(display::ago(ns.number(), *now))
}

#[askama::filter_fn]
pub(super) fn duration(ns: impl Number, _: &dyn Values) -> Result<String> {
    Ok(display::duration(ns.number()))
}

#[askama::filter_fn]
pub(super) fn bytes(bytes: impl Number, _: &dyn Values) -> Result<String> {
    Ok(display::bytes(bytes.number()))
}

#[askama::filter_fn]
pub(super) fn count(number: impl Number, _: &dyn Values) -> Result<String> {
    Ok(display::count(number.number()))
}

#[askama::filter_fn]
pub(super) fn beginning(text: impl AsRef<str>, _: &dyn Values, most: usize) -> Result<String> {
    Ok(display::beginning(text.as_ref(), most))
}

#[askama::filter_fn]
pub(super) fn base(path: impl AsRef<str>, _: &dyn Values) -> Result<String> {
    Ok(display::base(path.as_ref()).to_owned())
}

#[askama::filter_fn]
pub(super) fn tone(word: impl AsRef<str>, _: &dyn Values) -> Result<&'static str> {
    Ok(display::tone(word.as_ref()))
}

#[askama::filter_fn]
pub(super) fn plain(word: impl AsRef<str>, _: &dyn Values) -> Result<String> {
    Ok(display::plain(word.as_ref()))
}

#[askama::filter_fn]
pub(super) fn machine(ns: impl Number, _: &dyn Values) -> Result<String> {
    Ok(display::machine_time(ns.number()))
}

#[askama::filter_fn]
pub(super) fn left(until_ns: impl Number, _: &dyn Values, now: &i64) -> Result<String> {
    Ok(display::left(until_ns.number(), *now))
}
