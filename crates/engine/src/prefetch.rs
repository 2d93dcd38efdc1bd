//! Asking for memory before it is needed.

#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// Starts to fetch a value that is soon needed into the cache; only a hint.
///
/// A loop that serves very many connections finds little of one connection in the cache when its turn comes,
/// and can know well before whose turn that will be.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

        let first = std::ptr::from_ref(value).cast::<i8>();
        let last = first.wrapping_add(size_of::<T>().saturating_sub(1));
        // SAFETY: a prefetch accesses nothing that the program could observe, whatever the address; SSE is part
        // of every x86-64.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(first);
            if size_of::<T>() > CACHE_LINE || align_of::<T>() < CACHE_LINE {
                _mm_prefetch::<_MM_HINT_T0>(last);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
