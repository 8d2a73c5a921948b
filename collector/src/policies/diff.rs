//! What two versions of a text differ in, line by line.

/// A table of so many cells at most is made; what differs more is shown as removed and added whole.
const CELLS: usize = 4_000_000;

/// A line of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'t> {
    /// It is in both.
    Same(&'t str),
    /// It is in the old text alone.
    Removed(&'t str),
    /// It is in the new text alone.
    Added(&'t str),
}

/// What makes the new text of the old one.
pub fn diff<'t>(old: &'t str, new: &'t str) -> Vec<Line<'t>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let begins = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (first, old) = old.split_at_checked(begins).unwrap_or_default();
    let new = new.get(begins..).unwrap_or_default();
    let ends = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, last) = old.split_at_checked(old.len() - ends).unwrap_or_default();
    let new = new.get(..new.len() - ends).unwrap_or_default();
    let mut lines: Vec<Line<'t>> = first.iter().map(|line| Line::Same(line)).collect();
    middle(old, new, &mut lines);
    lines.extend(last.iter().map(|line| Line::Same(line)));
    lines
}

/// By the longest common subsequence.
fn middle<'t>(old: &[&'t str], new: &[&'t str], lines: &mut Vec<Line<'t>>) {
    let width = new.len() + 1;
    if old.is_empty() || new.is_empty() || (old.len() + 1).saturating_mul(width) > CELLS {
        lines.extend(old.iter().map(|line| Line::Removed(line)));
        lines.extend(new.iter().map(|line| Line::Added(line)));
        return;
    }
    // How much what is left of both has in common, from each place on.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    let at = |common: &[u32], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                at(&common, i + 1, j + 1) + 1
            } else {
                at(&common, i + 1, j).max(at(&common, i, j + 1))
            };
            if let Some(cell) = common.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                lines.push(Line::Same(a));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                lines.push(Line::Removed(a));
                i += 1;
            }
            (_, Some(b)) => {
                lines.push(Line::Added(b));
                j += 1;
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str) -> String {
        let line = |line: Line<'_>| match line {
            Line::Same(text) => format!(" {text}"),
            Line::Removed(text) => format!("-{text}"),
            Line::Added(text) => format!("+{text}"),
        };
        diff(old, new).into_iter().map(line).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn differences() {
        assert_eq!(shown("a\nb\nc", "a\nb\nc"), " a| b| c");
        assert_eq!(shown("a\nb\nc", "a\nx\nc"), " a|-b|+x| c");
        assert_eq!(shown("", "a"), "+a");
        assert_eq!(shown("a", ""), "-a");
        assert_eq!(shown("a\nb\na\nc", "b\na\nx\nc\nc"), "-a| b| a|+x|+c| c");
        assert_eq!(shown("a\na", "a\na\na"), " a| a|+a");
        // More than is compared line by line, and still whole.
        let old: String = (0..3000).map(|n| format!("old {n}\n")).collect();
        let new: String = (0..3000).map(|n| format!("new {n}\n")).collect();
        assert_eq!(diff(&old, &new).len(), 6000);
    }
}
