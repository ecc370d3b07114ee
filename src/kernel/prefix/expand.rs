//! Words for those of 8 lanes that pull.

/// For each set of lanes, as bits: where each finds the two bytes of its word among those that follow in the stream. After
/// the last one 16 bytes more can be read.
pub(super) static EXPAND: [[u8; 16]; 257] = {
    let mut table = [[0; 16]; 257];
    let mut pulls = 0;
    while pulls < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if pulls >> lane & 1 == 1 {
                table[pulls][2 * lane] = 2 * word;
                table[pulls][2 * lane + 1] = 2 * word + 1;
                word += 1;
            }
            lane += 1;
        }
        pulls += 1;
    }
    table
};

/// The other way: for each set of lanes, as bits, where the last bytes of 16 find the words of those lanes, in order. The
/// bytes before them are 0.
#[cfg(target_arch = "x86_64")]
pub(super) static COLLECT: [[u8; 16]; 256] = {
    let mut table = [[0xFF; 16]; 256];
    let mut pulls: usize = 0;
    while pulls < 256 {
        let (mut lane, mut at) = (0, 16 - 2 * pulls.count_ones() as usize);
        while lane < 8 {
            if pulls >> lane & 1 == 1 {
                table[pulls][at] = 2 * lane;
                table[pulls][at + 1] = 2 * lane + 1;
                at += 2;
            }
            lane += 1;
        }
        pulls += 1;
    }
    table
};
