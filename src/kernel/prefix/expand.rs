//! Words for those of 8 lanes that pull.

/// For each set of lanes, as bits: where each finds the two bytes of its word among those that follow in the stream.
pub(super) static EXPAND: [[u8; 16]; 256] = {
    let mut table = [[0; 16]; 256];
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
