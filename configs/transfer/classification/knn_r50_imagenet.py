"""ImageNet kNN: k = 200 training images vote, weight exp(similarity / 0.1).

Protocol: instance discrimination (arXiv 1805.01978, section 3.4), on the globally
pooled backbone features. Nothing is trained.
Target, top-1: MoCo v2 55.7 at k = 20 (mmselfsup model zoo).

Differs: k = 200 and a temperature of 0.1, as in the MoCo CIFAR demo and the kNN of
pretraining. All training features lie in host memory, 10 GB; `bank_images` bounds them.

NMI, ARI and ACC are of k-means clusters of the test images, one per class.

    python tools/train.py configs/transfer/classification/knn_r50_imagenet.py
"""

_base_ = "../_base_/classification/folder.py"

batch_size = 256  # per GPU
bank_images = None  # so many training images, evenly spaced; None: all
k = 200
temperature = 0.1

loader = dict(**_base_.loader, batch_size=batch_size)
labelled = dict(**_base_.labelled, pipeline=_base_.test_pipeline)
test_dataloader = dict(**loader, dataset=dict(**labelled, root=_base_.test_root))
test_evaluator = []  # the loop computes the figures
test_cfg = dict(
    type="KNNTestLoop",
    train_dataloader=dict(
        **loader,
        dataset=dict(**labelled, root=_base_.train_root, max_images=bank_images),
    ),
    k=k,
    temperature=temperature,
)
default_hooks = dict(
    result=dict(
        metrics={
            **{f"top{n}": f"knn/top{n}" for n in _base_.topk},
            **{n.upper(): f"clustering/{n}" for n in ("nmi", "ari", "acc")},
        }
    ),
)
