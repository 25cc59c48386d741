//! Which name was probably meant by one that does not exist.

/// Names less alike than this (Jaro-Winkler, 1 is equal) are no slips of each other.
const LIKENESS_MIN: f64 = 0.8;

/// The one of `candidates` that `found` is probably a slip of.
pub(crate) fn nearest<'c>(
    found: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(found, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, candidate)| candidate)
}

/// Says which of `candidates` was probably meant, or else names them all.
pub(crate) fn hint<'c>(
    found: &str,
    candidates: impl IntoIterator<Item = &'c str> + Clone,
) -> String {
    if let Some(nearest) = nearest(found, candidates.clone()) {
        return format!("did you mean `{nearest}`?");
    }
    let names = candidates.into_iter().map(|name| format!("`{name}`"));
    format!("there are {}", names.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_taken_for_what_is_most_like_it_and_another_word_for_nothing() {
        let names = ["leak-heap", "leak-kernel", "refuse"];
        assert_eq!(nearest("leak-kernle", names), Some("leak-kernel"));
        assert_eq!(hint("leak-hep", names), "did you mean `leak-heap`?");
        assert_eq!(nearest("chaos", names), None);
        assert_eq!(
            hint("", names),
            "there are `leak-heap`, `leak-kernel`, `refuse`"
        );
    }
}
