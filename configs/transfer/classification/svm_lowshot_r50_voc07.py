"""VOC07 low-shot classification: linear SVMs on k positives per class.

Protocol: Goyal et al. (arXiv 1905.01235 and its code): k positives and 19 k negatives
of each class, five independent draws, mAP on the whole test set. Reported is the mean
of the best cost, chosen on the test set as there, hence an upper estimate for each k.
Features as in svm_r50_voc07.py.
Targets, MoCo v2 at k = 1 2 4 8 16 32 64 96: 43.0 52.48 63.43 71.74 76.35 78.9 81.31
82.45 (OpenSelfSup model zoo).

Differs: the draws come from the run's seed, not from published lists. Needs
scikit-learn.

    python tools/train.py configs/transfer/classification/svm_lowshot_r50_voc07.py
"""

_base_ = "svm_r50_voc07.py"

shots = (1, 2, 4, 8, 16, 32, 64, 96)
trials = 5

test_cfg = dict(shots=shots, trials=trials)
default_hooks = dict(
    result=dict(
        metrics={
            "_delete_": True,
            **{f"k{k}": f"lowshot/k{k}" for k in shots},
            **{f"k{k}_std": f"lowshot/k{k}_std" for k in shots},
        }
    ),
)
