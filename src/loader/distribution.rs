//! [`Distribution`]: which of several processes this one is.

use crate::error::{Error, Result};

/// The place of a process among those that share an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distribution {
    rank: u64,
    world_size: u64,
    replicas: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            replicas: 1,
        }
    }
}

/// Variables of (rank, world size), by who sets them. Slurm's counts are those of the step: a batch script that is not
/// started by `srun` is a single process.
const VARIABLES: [(&str, &str, &str); 4] = [
    ("torchrun", "RANK", "WORLD_SIZE"),
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MPI", "PMI_RANK", "PMI_SIZE"),
];

impl Distribution {
    /// Process `rank` of `world_size`.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such rank.
    pub fn new(rank: u64, world_size: u64) -> Result<Self> {
        if rank >= world_size || u32::try_from(world_size).is_err() {
            return Err(Error::invalid(format!(
                "rank {rank} of world_size {world_size}: ranks are 0 to world_size - 1"
            )));
        }
        Ok(Self {
            rank,
            world_size,
            replicas: 1,
        })
    }

    /// What torchrun, Slurm or MPI have put in the environment; one process if they have not.
    ///
    /// # Errors
    /// `InvalidArgument` if the variables are no numbers or no such rank.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        for (who, rank, world_size) in VARIABLES {
            let (Some(r), Some(w)) = (get(rank), get(world_size)) else {
                continue;
            };
            let parse = |name: &str, value: &str| {
                value.trim().parse().map_err(|e| {
                    Error::invalid(format!("{name}={value:?} of {who} is no rank or world size ({e}); give rank and world_size"))
                })
            };
            return Self::new(parse(rank, &r)?, parse(world_size, &w)?);
        }
        Ok(Self::default())
    }

    /// Groups of `replicas` consecutive ranks receive the same samples, as the ranks of one model do that is split over
    /// several devices.
    ///
    /// # Errors
    /// `InvalidArgument` if it does not divide the world size.
    pub fn with_replicas(mut self, replicas: u64) -> Result<Self> {
        if replicas == 0 || !self.world_size.is_multiple_of(replicas) {
            return Err(Error::invalid(format!(
                "replicas is {replicas}; it must divide world_size, which is {}",
                self.world_size
            )));
        }
        self.replicas = replicas;
        Ok(self)
    }

    /// The process, from 0.
    pub fn rank(&self) -> u64 {
        self.rank
    }

    /// The number of processes.
    pub fn world_size(&self) -> u64 {
        self.world_size
    }

    /// Ranks that receive the same samples.
    pub fn replicas(&self) -> u64 {
        self.replicas
    }

    /// Which share of the samples, of how many.
    pub(crate) fn share(&self) -> (u64, u64) {
        (self.rank / self.replicas, self.world_size / self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Distribution> {
        Distribution::from_variables(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_are_understood() -> Result<()> {
        assert_eq!(of(&[])?, Distribution::default());
        assert_eq!(
            of(&[("RANK", "3"), ("WORLD_SIZE", "4")])?,
            Distribution::new(3, 4)?
        );
        // A Slurm batch script without srun has no step of its own.
        assert_eq!(
            of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")])?,
            Distribution::default()
        );
        assert_eq!(
            of(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "8")])?,
            Distribution::new(1, 8)?
        );
        assert_eq!(
            of(&[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")])?,
            Distribution::new(1, 2)?
        );
        assert_eq!(
            of(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")])?,
            Distribution::new(1, 2)?
        );
        // torchrun inside a Slurm job: the inner launcher counts.
        let both = of(&[
            ("RANK", "5"),
            ("WORLD_SIZE", "6"),
            ("SLURM_PROCID", "0"),
            ("SLURM_STEP_NUM_TASKS", "1"),
        ])?;
        assert_eq!(both, Distribution::new(5, 6)?);
        let error = of(&[("RANK", "x"), ("WORLD_SIZE", "6")]).unwrap_err();
        assert!(
            error.to_string().contains("RANK=\"x\" of torchrun"),
            "{error}"
        );
        assert!(of(&[("RANK", "6"), ("WORLD_SIZE", "6")]).is_err());
        Ok(())
    }

    #[test]
    fn replicas_share_a_share() -> Result<()> {
        let shares = |replicas| -> Result<Vec<_>> {
            (0..6)
                .map(|rank| Ok(Distribution::new(rank, 6)?.with_replicas(replicas)?.share()))
                .collect()
        };
        assert_eq!(shares(2)?, [(0, 3), (0, 3), (1, 3), (1, 3), (2, 3), (2, 3)]);
        assert_eq!(shares(6)?, [(0, 1); 6]);
        assert!(Distribution::new(0, 6)?.with_replicas(4).is_err());
        assert!(Distribution::new(0, 6)?.with_replicas(0).is_err());
        Ok(())
    }
}
