//! Packs columns of numbers into bytes, and takes them out again exactly as they were.
//!
//! It knows nothing of what the numbers mean. What is read back may be anything: a file can be
//! damaged, so taking out never panics and never takes more memory than was asked for.
//!
//! ```text
//!   column of times      first, then changes of the step: zeros while a clock ticks evenly
//!   column of values     decimal   value * 10^k is whole for all: the first, what all distances
//!                                  from it are multiples of, and steps of these multiples, or
//!                                  changes of the step
//!                        binary    else: the bits that differ from the value before
//!   a whole number       zigzag, 7 bits a byte; 0 is followed by how many more of them
//!   bits that differ     one byte: zero bytes below << 4 | how many bytes; then these;
//!                        0 is followed by how many more of them
//! ```

/// Largest whole number that every smaller one of is exact in a double, 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Decimal places that are tried: figures of hosts have three at most, seconds may have six.
const PLACES_MAX: u8 = 6;
const BINARY: u8 = 0x80;
const SECOND_ORDER: u8 = 0x40;
const PLACES: u8 = 0x0f;

/// Packs times, in any order.
pub(super) fn pack_times(times: &[i64], bytes: &mut Vec<u8>) {
    pack_whole(&steps(&steps(times)), bytes);
}

/// Takes `count` times out of `bytes`, and moves past them.
pub(super) fn unpack_times(bytes: &mut &[u8], count: usize) -> Option<Vec<i64>> {
    Some(sums(&sums(&unpack_whole(bytes, count)?)))
}

/// Packs values, none of which may be infinite or no number.
pub(super) fn pack_values(values: &[f64], bytes: &mut Vec<u8>) {
    let Some((places, whole)) = (0..=PLACES_MAX).find_map(|places| decimal(values, places)) else {
        bytes.push(BINARY);
        return pack_bits(values, bytes);
    };
    let origin = whole.first().copied().unwrap_or(0);
    let distances: Vec<_> = whole.iter().map(|whole| whole - origin).collect();
    let unit = unit(&distances);
    let multiples: Vec<_> = distances.iter().map(|distance| distance / unit).collect();
    let first = steps(&multiples);
    let [first, second] = [&first, &steps(&first)].map(|residuals| {
        let mut packed = Vec::new();
        pack_whole(residuals, &mut packed);
        packed
    });
    let (order, shorter) = if second.len() < first.len() {
        (SECOND_ORDER, second)
    } else {
        (0, first)
    };
    bytes.push(order | places);
    push_varint(zigzag(origin), bytes);
    push_varint(zigzag(unit), bytes);
    bytes.extend(shorter);
}

/// Takes `count` values out of `bytes`, and moves past them.
pub(super) fn unpack_values(bytes: &mut &[u8], count: usize) -> Option<Vec<f64>> {
    let kind = take(bytes)?;
    if kind == BINARY {
        return unpack_bits(bytes, count);
    }
    let places = kind & PLACES;
    if kind & !(SECOND_ORDER | PLACES) != 0 || places > PLACES_MAX {
        return None;
    }
    let origin = unzigzag(take_varint(bytes)?);
    let unit = unzigzag(take_varint(bytes)?);
    let mut multiples = sums(&unpack_whole(bytes, count)?);
    if kind & SECOND_ORDER != 0 {
        multiples = sums(&multiples);
    }
    let value = |multiple: i64| {
        let whole = origin.wrapping_add(multiple.wrapping_mul(unit));
        whole as f64 / power(places)
    };
    Some(multiples.into_iter().map(value).collect())
}

/// All values as whole numbers of `places` decimal places, if that loses nothing.
fn decimal(values: &[f64], places: u8) -> Option<(u8, Vec<i64>)> {
    let power = power(places);
    let whole = values.iter().map(|value| {
        let whole = exact(value * power)?;
        let same = (whole as f64 / power).to_bits() == value.to_bits();
        same.then_some(whole)
    });
    Some((places, whole.collect::<Option<_>>()?))
}

/// What all distances are multiples of: memory comes in pages, and latencies in ticks.
fn unit(distances: &[i64]) -> i64 {
    let mut unit = 0;
    for distance in distances {
        let mut rest = distance.abs();
        while rest != 0 {
            (unit, rest) = (rest, unit % rest);
        }
        if unit == 1 {
            break;
        }
    }
    unit.max(1)
}

fn power(places: u8) -> f64 {
    10_f64.powi(i32::from(places))
}

fn exact(value: f64) -> Option<i64> {
    let rounded = value.round();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "below 2^53 every whole double is a whole number of 64 bits"
    )]
    (rounded.abs() < EXACT_MAX).then_some(rounded as i64)
}

fn steps(numbers: &[i64]) -> Vec<i64> {
    let mut before = 0_i64;
    let step = |number: &i64| number.wrapping_sub(std::mem::replace(&mut before, *number));
    numbers.iter().map(step).collect()
}

fn sums(steps: &[i64]) -> Vec<i64> {
    let mut sum = 0_i64;
    let mut add = |step: &i64| {
        sum = sum.wrapping_add(*step);
        sum
    };
    steps.iter().map(&mut add).collect()
}

fn pack_whole(numbers: &[i64], bytes: &mut Vec<u8>) {
    for run in numbers.chunk_by(|one, other| *one == 0 && *other == 0) {
        push_varint(zigzag(run[0]), bytes);
        if run[0] == 0 {
            push_varint(run.len() as u64 - 1, bytes);
        }
    }
}

fn unpack_whole(bytes: &mut &[u8], count: usize) -> Option<Vec<i64>> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let number = unzigzag(take_varint(bytes)?);
        if number == 0 {
            extend_by_run(&mut numbers, 0, bytes, count)?;
        } else {
            numbers.push(number);
        }
    }
    Some(numbers)
}

/// Appends one `item` and as many more as `bytes` says, if no more than `count` are there then.
fn extend_by_run<T: Copy>(
    items: &mut Vec<T>,
    item: T,
    bytes: &mut &[u8],
    count: usize,
) -> Option<()> {
    let more = usize::try_from(take_varint(bytes)?).ok()?;
    let len = items.len().checked_add(1)?.checked_add(more)?;
    if len > count {
        return None;
    }
    items.resize(len, item);
    Some(())
}

fn pack_bits(values: &[f64], bytes: &mut Vec<u8>) {
    let mut before = 0;
    let bits: Vec<_> = values
        .iter()
        .map(|value| value.to_bits() ^ std::mem::replace(&mut before, value.to_bits()))
        .collect();
    for run in bits.chunk_by(|one, other| *one == 0 && *other == 0) {
        let differing = run[0];
        if differing == 0 {
            bytes.push(0);
            push_varint(run.len() as u64 - 1, bytes);
            continue;
        }
        let below = differing.trailing_zeros() / 8;
        let len = 8 - differing.leading_zeros() / 8 - below;
        let [below, len] = [below, len].map(|n| u8::try_from(n).expect("8 at most"));
        bytes.push(below << 4 | len);
        let start = usize::from(below);
        bytes.extend(&differing.to_le_bytes()[start..start + usize::from(len)]);
    }
}

fn unpack_bits(bytes: &mut &[u8], count: usize) -> Option<Vec<f64>> {
    let mut values = Vec::new();
    let mut before = 0_u64;
    while values.len() < count {
        let head = take(bytes)?;
        if head == 0 {
            extend_by_run(&mut values, f64::from_bits(before), bytes, count)?;
            continue;
        }
        let (start, len) = (usize::from(head >> 4), usize::from(head & 0x0f));
        let mut differing = [0; 8];
        let place = differing.get_mut(start..start.checked_add(len)?)?;
        let (found, rest) = bytes.split_at_checked(len)?;
        place.copy_from_slice(found);
        *bytes = rest;
        before ^= u64::from_le_bytes(differing);
        values.push(f64::from_bits(before));
    }
    Some(values)
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Pushes a number, the low 7 bits first.
pub(super) fn push_varint(mut number: u64, bytes: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("7 bits");
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

/// Takes a number off the front of `bytes`.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[f64]) -> usize {
        let mut bytes = Vec::new();
        pack_values(values, &mut bytes);
        let unpacked = unpack_values(&mut &*bytes, values.len()).unwrap();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&unpacked), bits(values));
        bytes.len()
    }

    #[test]
    fn what_changes_little_takes_little() {
        let hour = 0..3_600_u32;
        let constant: Vec<_> = hour.clone().map(|_| 42.5).collect();
        let counter: Vec<_> = hour
            .clone()
            .map(|i| f64::from(i) * 1_000.0 + 1e12)
            .collect();
        let walk = |i: u32| 40.0 + f64::from(i * i % 7) / 10.0;
        let temperature: Vec<_> = hour.clone().map(walk).collect();
        let memory: Vec<_> = hour
            .map(|i| f64::from(i * i % 23) * 4_096.0 + 1e9)
            .collect();
        assert!(round_trip(&constant) < 10);
        assert!(round_trip(&counter) < 20);
        assert!(round_trip(&temperature) <= 3_700);
        assert!(round_trip(&memory) <= 3_700);
    }

    #[test]
    fn a_run_that_claims_more_than_there_are_is_refused_before_it_is_made() {
        let mut bytes = vec![0, 0];
        push_varint(u64::MAX, &mut bytes);
        assert_eq!(unpack_values(&mut &*bytes, 10), None);
        assert_eq!(unpack_times(&mut &bytes[1..], 10), None);
    }

    proptest! {
        #[test]
        fn whatever_goes_in_comes_out(
            values in prop::collection::vec(prop_oneof![
                prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL,
                (-1_000_000_i32..1_000_000).prop_map(|n| f64::from(n) / 1_000.0),
                Just(-0.0),
            ], 0..50),
            decimals in prop::collection::vec(-100_000_i32..100_000, 0..50),
            times: Vec<i64>,
        ) {
            round_trip(&values);
            round_trip(&decimals.iter().map(|n| f64::from(*n) / 100.0).collect::<Vec<_>>());
            let mut bytes = Vec::new();
            pack_times(&times, &mut bytes);
            prop_assert_eq!(unpack_times(&mut &*bytes, times.len()), Some(times));
        }

        #[test]
        fn no_bytes_are_a_surprise(bytes: Vec<u8>, count in 0..5_000_usize) {
            let values = unpack_values(&mut &*bytes, count);
            prop_assert!(values.is_none_or(|values| values.len() == count));
            let times = unpack_times(&mut &*bytes, count);
            prop_assert!(times.is_none_or(|times| times.len() == count));
        }
    }
}
