"""The public face: the one list of its names, which `__init__.py` reads so as to import each when it is first used."""

import os
from collections.abc import Sequence

# Verbs
from stitchrl.auditing.audit import audit as audit
from stitchrl.deployment.loading import load_policy as load_policy
from stitchrl.diagnosis.advice import advise as advise
from stitchrl.diagnosis.diagnose import diagnose as diagnose
from stitchrl.data.history import with_history as with_history
from stitchrl.evaluation.episode_ranking import rank_episodes as rank_episodes
from stitchrl.evaluation.evaluate import evaluate as evaluate
from stitchrl.mdp.icu_sepsis import demo_log as demo_log
from stitchrl.pipeline.pipeline import report as report
from stitchrl.pipeline.race import race as race
from stitchrl.pipeline.pipeline import run as run
from stitchrl.reading.convert import convert as convert
from stitchrl.reading.drop_list import read_drop_list as read_drop_list
from stitchrl.reading.preferences import read_preferences as read_preferences
from stitchrl.reading.read import read as read
from stitchrl.collection.recipes import collect as collect
from stitchrl.rollouts import rollout as rollout
from stitchrl.training.fit import fit as fit
from stitchrl.training.fit import fit_grid as fit_grid

# Algorithms: every name from `stitchrl.algorithms`, the base class apart, is one of `ALGORITHMS` or `PREFERENCE_ALGORITHMS`.
from stitchrl.algorithms.base import Algorithm as Algorithm
from stitchrl.algorithms.awac import AWAC as AWAC
from stitchrl.algorithms.awr import AWR as AWR
from stitchrl.algorithms.advantage_bc import AdvantageBC as AdvantageBC
from stitchrl.algorithms.bcq import BCQ as BCQ
from stitchrl.algorithms.bcq_iql import BCQIQL as BCQIQL
from stitchrl.algorithms.bear import BEAR as BEAR
from stitchrl.algorithms.behavior import BC as BC
from stitchrl.algorithms.combo import COMBO as COMBO
from stitchrl.algorithms.cql import CQL as CQL
from stitchrl.algorithms.ddpg import DDPG as DDPG
from stitchrl.algorithms.decision_transformer import DecisionTransformer as DecisionTransformer
from stitchrl.algorithms.dpo import DPO as DPO
from stitchrl.algorithms.dqn import DQN as DQN
from stitchrl.algorithms.edac import EDAC as EDAC
from stitchrl.algorithms.filtered_bc import FilteredBC as FilteredBC
from stitchrl.algorithms.fql import FQL as FQL
from stitchrl.algorithms.idql import IDQL as IDQL
from stitchrl.algorithms.iql import IQL as IQL
from stitchrl.algorithms.q_chunking import QChunking as QChunking
from stitchrl.algorithms.mopo import MOPO as MOPO
from stitchrl.algorithms.rebrac import ReBRAC as ReBRAC
from stitchrl.algorithms.sac import SAC as SAC
from stitchrl.algorithms.sac_n import SACN as SACN
from stitchrl.algorithms.spibb import SPIBB as SPIBB
from stitchrl.algorithms.td3 import TD3 as TD3
from stitchrl.algorithms.sql import EQL as EQL
from stitchrl.algorithms.sql import SQL as SQL
from stitchrl.algorithms.td3bc import TD3BC as TD3BC
from stitchrl.algorithms.vilcb import VILCB as VILCB
from stitchrl.algorithms.xql import XQL as XQL
from stitchrl.nn.networks import Network as Network

# Logs
from stitchrl.auditing.finding import Audit as Audit
from stitchrl.auditing.finding import Finding as Finding
from stitchrl.data.column_rule import ColumnRule as ColumnRule
from stitchrl.data.dataset import Dataset as Dataset
from stitchrl.data.dataset import Episode as Episode
from stitchrl.data.preferences import Preferences as Preferences
from stitchrl.data.scaling import Scaling as Scaling
from stitchrl.data.schema import Schema as Schema
from stitchrl.diagnosis.advice import Advice as Advice

# Training
from stitchrl.data.sampling import EpisodeSampling as EpisodeSampling
from stitchrl.data.sampling import StratifiedSampling as StratifiedSampling
from stitchrl.data.sampling import TopFractionSampling as TopFractionSampling
from stitchrl.data.sampling import UniformSampling as UniformSampling
from stitchrl.data.sampling import WeightedSampling as WeightedSampling
from stitchrl.training.flags import RedFlag as RedFlag
from stitchrl.training.run import Grid as Grid
from stitchrl.training.run import Run as Run
from stitchrl.training.stopping import EarlyStop as EarlyStop
from stitchrl.training.trackers.mlflow import MLflowTracker as MLflowTracker
from stitchrl.training.trackers.tensorboard import TensorBoardTracker as TensorBoardTracker
from stitchrl.training.trackers.trackio import TrackioTracker as TrackioTracker
from stitchrl.training.trackers.wandb import WandbTracker as WandbTracker

# Policies, estimates, verdicts
from stitchrl.diagnosis.diagnosis import Diagnosis as Diagnosis
from stitchrl.diagnosis.probe import Probe as Probe
from stitchrl.deployment.bundle import Bundle as Bundle
from stitchrl.deployment.d3rlpy_policy import D3RLPyPolicy as D3RLPyPolicy
from stitchrl.deployment.guard import Guard as Guard
from stitchrl.deployment.onnx_policy import OnnxPolicy as OnnxPolicy
from stitchrl.deployment.sb3_policy import SB3Policy as SB3Policy
from stitchrl.evaluation.action_shift import ActionShift as ActionShift
from stitchrl.evaluation.agreement import Agreement as Agreement
from stitchrl.evaluation.consistency import Consistency as Consistency
from stitchrl.evaluation.contributions import Estimand as Estimand
from stitchrl.evaluation.episode_ranking import EpisodeRanking as EpisodeRanking
from stitchrl.evaluation.estimator import Estimator as Estimator
from stitchrl.evaluation.evaluation import Evaluation as Evaluation
from stitchrl.evaluation.logged_policy import LoggedPolicy as LoggedPolicy
from stitchrl.evaluation.lower_bounds import LowerBound as LowerBound
from stitchrl.evaluation.return_distribution import ReturnDistribution as ReturnDistribution
from stitchrl.evaluation.settings import FitSettings as FitSettings
from stitchrl.evaluation.results import Estimate as Estimate
from stitchrl.evaluation.verdict import Verdict as Verdict
from stitchrl.nn.clipped import ClippedPolicy as ClippedPolicy
from stitchrl.nn.history import HistoryPolicy as HistoryPolicy
from stitchrl.nn.memory import MemoryPolicy as MemoryPolicy
from stitchrl.nn.policy import Policy as Policy
from stitchrl.nn.smoothed import SmoothedPolicy as SmoothedPolicy
from stitchrl.pipeline.outcome import Outcome as Outcome
from stitchrl.pipeline.race_result import Race as Race
from stitchrl.rollouts import Rollout as Rollout

# Namespaces
from stitchrl import errors as errors
from stitchrl import trackers as trackers
from stitchrl.data import sampling as sampling

__version__: str
ALGORITHMS: dict[str, str]
PREFERENCE_ALGORITHMS: dict[str, str]

def load(folder: str | os.PathLike[str], *, algorithms: Sequence[type[Algorithm]] = ()) -> Run | Grid:
    """The run or grid that `fit` or `fit_grid` saved with `out=folder`, as far as its last checkpoint."""
