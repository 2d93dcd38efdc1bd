//! An out-queue whose oldest messages are dropped, against a list of messages.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use kolk_engine::buffer::OutQueue;
use kolk_engine::limits::COPY_SIZE;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A message of these pieces.
    Write(Vec<usize>),
    Drop(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let piece = prop_oneof![1..40_usize, COPY_SIZE - 1..COPY_SIZE + 20];
    prop_oneof![
        4 => prop::collection::vec(piece, 1..4).prop_map(Step::Write),
        1 => (0..5000_u64).prop_map(Step::Drop),
        1 => Just(Step::Drop(u64::MAX)),
    ]
}

/// All that the queue would send.
fn drain(queue: &mut OutQueue) -> Vec<u8> {
    let mut sent = Vec::new();
    while !queue.is_empty() {
        let mut slices = [IoSlice::new(&[]); 4];
        let filled = queue.io_slices(&mut slices);
        assert!(filled > 0);
        let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
        queue.advance(bytes.len() as u64);
        sent.extend(bytes);
    }
    sent
}

proptest! {
    #[test]
    fn whole_messages_go_and_the_rest_is_sent_in_order(steps in prop::collection::vec(step(), 1..60)) {
        let mut queue = OutQueue::default();
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for (stamp, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write(pieces) => {
                    let mut message = Vec::new();
                    for len in pieces {
                        let bytes = vec![stamp as u8; len];
                        queue.push(Bytes::from(bytes.clone()).into());
                        message.extend(bytes);
                    }
                    queue.end_message(message.len() as u64);
                    model.push_back(message);
                }
                Step::Drop(excess) => {
                    let (mut count, mut bytes) = (0, 0);
                    while bytes < excess && model.len() > 1 {
                        bytes += model.pop_front().map_or(0, |message| message.len() as u64);
                        count += 1;
                    }
                    prop_assert_eq!(queue.drop_oldest(excess), (count, bytes));
                }
            }
            prop_assert_eq!(queue.len(), model.iter().map(|message| message.len() as u64).sum::<u64>());
        }
        let expected: Vec<u8> = model.into_iter().flatten().collect();
        prop_assert_eq!(drain(&mut queue), expected);
    }
}

#[test]
fn a_queue_whose_oldest_messages_are_dropped_for_ever_does_not_grow() {
    for len in [100, COPY_SIZE + 100] {
        let mut queue = OutQueue::default();
        for _ in 0..100_000 {
            queue.push(Bytes::from(vec![7; len]).into());
            queue.end_message(len as u64);
            let _ = queue.drop_oldest(queue.len().saturating_sub(10 * len as u64));
            assert!(queue.len() <= 10 * len as u64);
        }
        assert!(queue.capacity() < 10_000, "{} bytes and pieces for 10 messages of {len}", queue.capacity());
    }
}
