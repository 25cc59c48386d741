//! Lanes: which operation of a batch stands where in a call, and how each ended.

use zeroize::Zeroize;

/// Operations that one call of the library executes side by side.
pub const LANES: usize = 8;

/// An operation of a batch has no result; the others are not touched by that.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneError {
    /// The input is not as long as the key, or not a number below the modulus.
    #[error("the input is not a number below the modulus, in as many bytes as that has")]
    Input,
    /// The key is for another length or curve than the call.
    #[error("the key is for another length or curve than the rest of the batch")]
    OtherKey,
    /// There were no random numbers to be had, so nothing was signed.
    #[error("the system gave no random numbers")]
    NoRandomness,
    /// The library refused the lane. The number is its status, of which several can be set at
    /// once: 1 mismatch, 2 null, 4 low order, 8 signature.
    #[error("crypto_mb refused the operation with status {0}")]
    Refused(u8),
}

/// Runs `call` on eight operations at a time and returns a result for each of `batch`, in order.
pub(crate) fn by_eights<T, R>(
    batch: &[T],
    mut call: impl FnMut(&[T]) -> Vec<Result<R, LaneError>>,
) -> Vec<Result<R, LaneError>> {
    let mut results = Vec::with_capacity(batch.len());
    for eight in batch.chunks(LANES) {
        let mut some = call(eight);
        assert_eq!(some.len(), eight.len(), "each operation has a result");
        results.append(&mut some);
    }
    results
}

/// Lanes that can be used, empty ones in the places of the others, and why those cannot.
pub(crate) fn split<T>(
    lanes: impl Iterator<Item = Result<T, LaneError>>,
) -> (Vec<Option<T>>, Vec<Result<(), LaneError>>) {
    lanes
        .map(|lane| match lane {
            Ok(lane) => (Some(lane), Ok(())),
            Err(error) => (None, Err(error)),
        })
        .unzip()
}

/// What each lane ended with: why it was left empty, or why the library refused it, or its output.
pub(crate) fn conclude<R: Zeroize>(
    outputs: Vec<R>,
    checks: Vec<Result<(), LaneError>>,
    status: impl Fn(usize) -> Result<(), LaneError>,
) -> Vec<Result<R, LaneError>> {
    let lanes = outputs.into_iter().zip(checks).enumerate();
    lanes
        .map(|(lane, (mut output, check))| {
            let ended = check.and_then(|()| status(lane));
            if ended.is_err() {
                // What the library leaves behind where it fails is nobody's business.
                output.zeroize();
            }
            ended.map(|()| output)
        })
        .collect()
}

/// How each lane ended, as the library packs it: four bits a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statuses(pub(crate) u32);

impl Statuses {
    pub(crate) fn of(self, lane: usize) -> Result<(), LaneError> {
        match self.0.to_le_bytes()[lane / 2] >> (4 * (lane % 2)) & 0xf {
            0 => Ok(()),
            status => Err(LaneError::Refused(status)),
        }
    }
}

/// A number written big-endian, as words with the least significant first. `None` if it is too
/// long.
pub(crate) fn words<const COUNT: usize>(big_endian: &[u8]) -> Option<[u64; COUNT]> {
    let mut words = [0; COUNT];
    fill_words(big_endian, &mut words).then_some(words)
}

/// The same into words that are there already and zero. Returns false if it is too long.
pub(crate) fn fill_words(big_endian: &[u8], words: &mut [u64]) -> bool {
    let zeros = big_endian.iter().take_while(|&&byte| byte == 0).count();
    let bytes = &big_endian[zeros..];
    if bytes.len() > 8 * words.len() {
        return false;
    }
    for (index, byte) in bytes.iter().rev().enumerate() {
        words[index / 8] |= u64::from(*byte) << (8 * (index % 8));
    }
    true
}

/// Whether one number is below another, in a time that depends on their length alone.
pub(crate) fn is_below(left: &[u64], right: &[u64]) -> bool {
    assert_eq!(left.len(), right.len(), "numbers of the same length");
    let mut borrow = false;
    for (left, right) in left.iter().zip(right) {
        let (difference, first) = left.overflowing_sub(*right);
        let (_, second) = difference.overflowing_sub(u64::from(borrow));
        borrow = first | second;
    }
    borrow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_four_bits_of_its_own() {
        let statuses = Statuses(0x8004_0021);
        let found: Vec<_> = (0..LANES).map(|lane| statuses.of(lane)).collect();
        let refused = |status| Err(LaneError::Refused(status));
        let expected = [
            refused(1),
            refused(2),
            Ok(()),
            Ok(()),
            refused(4),
            Ok(()),
            Ok(()),
            refused(8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn words_are_least_significant_first_and_leading_zeros_are_no_length() {
        let bytes = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(words(&bytes), Some([0x0203_0405_0607_0809, 1]));
        assert_eq!(words::<1>(&bytes), None);
        assert_eq!(words::<1>(&[]), Some([0]));
    }

    #[test]
    fn numbers_are_compared_from_the_most_significant_word() {
        assert!(is_below(&[9, 1], &[0, 2]));
        assert!(!is_below(&[0, 2], &[9, 1]));
        assert!(!is_below(&[3, 3], &[3, 3]));
        assert!(is_below(&[2, 3], &[3, 3]));
        assert!(!is_below(&[0, 1], &[u64::MAX, 0]));
    }

    #[test]
    fn results_keep_their_order_over_many_calls() {
        let batch: Vec<usize> = (0..19).collect();
        let mut sizes = Vec::new();
        let results = by_eights(&batch, |eight| {
            sizes.push(eight.len());
            eight.iter().map(|number| Ok(*number)).collect()
        });
        assert_eq!(sizes, [8, 8, 3]);
        let results: Result<Vec<_>, _> = results.into_iter().collect();
        assert_eq!(results, Ok(batch));
    }
}
