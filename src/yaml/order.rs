//! The order of keys in YAML output.

use std::cmp::Ordering;

/// Sorts keys as go-yaml does: numbers inside them by value, letters behind other characters.
///
/// That order need not be total, which the sort of the standard library may answer with a panic;
/// this one only makes less of it.
pub fn sort_keys<T>(items: Vec<(String, T)>) -> Vec<(String, T)> {
    let mut sorted: Vec<(String, T)> = Vec::with_capacity(items.len());
    for item in items {
        let place = sorted.partition_point(|other| compare(&other.0, &item.0) != Ordering::Greater);
        sorted.insert(place, item);
    }
    sorted
}

fn compare(left: &str, right: &str) -> Ordering {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let Some(at) = left
        .iter()
        .zip(&right)
        .position(|(left, right)| left != right)
    else {
        return left.len().cmp(&right.len());
    };
    let behind_digit = at > 0 && left[at - 1].is_ascii_digit();
    let letters = (left[at].is_alphabetic(), right[at].is_alphabetic());
    match letters {
        (true, true) => left[at].cmp(&right[at]),
        (true, false) if behind_digit => Ordering::Less,
        (false, true) if behind_digit => Ordering::Greater,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => compare_numbers(&left, &right, at),
    }
}

/// Compares the numbers that stand at `at`; what is no number counts as zero.
fn compare_numbers(left: &[char], right: &[char], at: usize) -> Ordering {
    let has_zero = left[at] == '0' || right[at] == '0';
    // Digits before the difference make it matter how many follow.
    let start = left[..at]
        .iter()
        .rev()
        .take_while(|character| character.is_ascii_digit())
        .any(|digit| *digit != '0');
    let start = u64::from(has_zero && start);
    let number = |text: &[char]| {
        let digits = text[at..]
            .iter()
            .map_while(|character| character.to_digit(10));
        digits.fold((start, 0), |(value, length), digit| {
            let value = value.saturating_mul(10).saturating_add(u64::from(digit));
            (value, length + 1)
        })
    };
    number(left)
        .cmp(&number(right))
        .then_with(|| left[at].cmp(&right[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_naturally() {
        let keys = [
            "a10", "a2", "_under", "0digit", "B", "a", "a1b", "a1-", "$${N}", "$$N",
        ];
        let sorted = sort_keys(keys.map(|key| (key.to_owned(), ())).into());
        let sorted: Vec<&str> = sorted.iter().map(|(key, ())| key.as_str()).collect();
        assert_eq!(
            sorted,
            [
                "$${N}", "$$N", "_under", "0digit", "B", "a", "a1b", "a1-", "a2", "a10"
            ]
        );
    }
}
