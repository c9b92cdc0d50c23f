//! Finds the places of hunks in a file and applies them.
//!
//! Pure. The search is git's (`apply.c`, find_pos): at the line that the
//! hunk names, then one further down, one further up, and so on; a hunk that begins with the file, or ends without context, has to be at
//! that end. Lines that an earlier hunk has touched are out of bounds.

use std::cell::Cell;

use diffy::{Hunk, Line};

use super::error::LineEnds;

/// How many lines may be compared or moved for one patch. A patch of the whole Linux kernel takes some millions.
pub(super) const MAX_STEPS: u64 = 1 << 31;

/// Applies hunks, one after the other. Fails with the first that has no place, or whose place is not found in `steps`.
pub(super) fn apply<'h, 'a>(
    old: &[u8],
    hunks: &'h [Hunk<'a, [u8]>],
    steps: &Cell<u64>,
) -> Result<Vec<u8>, &'h Hunk<'a, [u8]>> {
    let mut image: Vec<(&[u8], bool)> = old.split_inclusive(|byte| *byte == b'\n').map(|line| (line, false)).collect();
    for hunk in hunks {
        let before = lines(hunk, |line| matches!(line, Line::Insert(_)));
        let after = lines(hunk, |line| matches!(line, Line::Delete(_)));
        let at = place(&image, hunk, &before, steps).ok_or(hunk)?;
        let end = at + after.len();
        spend(steps, image.len() - at + after.len()).ok_or(hunk)?;
        image.splice(at..at + before.len(), after.into_iter().map(|line| (line, true)));
        // Only the last line may lack its end, and what was the last one may be followed by others now.
        let unended = |(line, _): &(&[u8], bool)| !line.ends_with(b"\n");
        let last = image.len().saturating_sub(1);
        if image.iter().take(end.min(last)).skip(at.saturating_sub(1)).any(unended) {
            return Err(hunk);
        }
    }
    Ok(image.into_iter().flat_map(|(line, _)| line).copied().collect())
}

/// The header of a hunk, as it stands in the patch.
pub(super) fn header(hunk: &Hunk<'_, [u8]>) -> String {
    let (old, new) = (hunk.old_range(), hunk.new_range());
    let context = hunk.function_context().map(|text| String::from_utf8_lossy(text).trim_end().to_owned());
    let ranges = format!("@@ -{},{} +{},{} @@", old.start(), old.len(), new.start(), new.len());
    format!("{ranges} {}", context.unwrap_or_default()).trim_end().to_owned()
}

/// Which side has lines that end in CRLF, where only the file or only the hunk has.
pub(super) fn crlf(old: &[u8], hunk: &Hunk<'_, [u8]>) -> Option<LineEnds> {
    let before = lines(hunk, |line| matches!(line, Line::Insert(_)));
    let of_patch = before.iter().any(|line| line.ends_with(b"\r\n"));
    let of_file = old.windows(2).any(|two| two == b"\r\n");
    match (of_patch, of_file) {
        (true, false) => Some(LineEnds::Patch),
        (false, true) if !before.is_empty() => Some(LineEnds::File),
        _ => None,
    }
}

fn lines<'a>(hunk: &Hunk<'a, [u8]>, left_out: impl Fn(&Line<'a, [u8]>) -> bool) -> Vec<&'a [u8]> {
    let kept = hunk.lines().iter().filter(|line| !left_out(line));
    kept.map(|line| match line {
        Line::Context(line) | Line::Delete(line) | Line::Insert(line) => *line,
    })
    .collect()
}

fn spend(steps: &Cell<u64>, count: usize) -> Option<()> {
    steps.set(steps.get().checked_sub(count as u64)?);
    Some(())
}

fn place(image: &[(&[u8], bool)], hunk: &Hunk<'_, [u8]>, before: &[&[u8]], steps: &Cell<u64>) -> Option<usize> {
    let at_start = hunk.old_range().start() <= 1;
    let at_end = !matches!(hunk.lines().last(), Some(Line::Context(_)));
    // A hunk without a line that must be there would fit anywhere.
    if before.is_empty() && !image.is_empty() {
        return None;
    }
    let last = image.len().checked_sub(before.len())?;
    let fits = |at: usize| {
        (!at_start || at == 0)
            && (!at_end || at == last)
            && image
                .iter()
                .skip(at)
                .zip(before)
                .all(|((line, touched), want)| spend(steps, 1).is_some() && !touched && line == want)
    };
    if at_start {
        return fits(0).then_some(0);
    }
    if at_end {
        return fits(last).then_some(last);
    }
    // Beyond the end there is only the way up, however far beyond it is: the number is untrusted.
    let named = hunk.new_range().start().saturating_sub(1).min(last);
    // Down before up; lines beyond the end are passed over.
    let distances = 0..=named.max(last - named);
    let places = distances.flat_map(|far| [named.checked_add(far), named.checked_sub(far)]);
    places.flatten().find(|at| *at <= last && fits(*at)).filter(|_| steps.get() > 0)
}
