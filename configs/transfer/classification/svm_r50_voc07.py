"""VOC07 classification: a linear SVM per class on frozen res5 features, mAP on test.

Protocol: Goyal et al. (arXiv 1905.01235 and its code): LinearSVC, class weights 2 and
1, L2-normalised features, the cost of each class chosen from 26 by 3-fold
cross-validation on trainval, difficult images ignored. The features are those of
OpenSelfSup: image stretched to 224 x 224, four 6 x 6 averages of res5, 8192 values.
Targets, mAP: MoCo v2 84.26, v1 79.18 (OpenSelfSup model zoo); v2 84.04 (mmselfsup).

Differs: images with only difficult objects of a class are ignored in training too.
Averages of the whole map instead: `pool_kernel=None`. Needs scikit-learn.

    python tools/train.py configs/transfer/classification/svm_r50_voc07.py
"""

_base_ = "../_base_/classification/voc07.py"

default_hooks = dict(result=dict(metrics=dict(mAP="svm/mAP")))
