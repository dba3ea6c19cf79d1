"""SimSiam with the uniformity term on the demo scenes: minutes on two CPU cores."""

_base_ = "../../../configs/simsiam/simsiam_r18_demo.py"
custom_imports = dict(imports=["projects.uniformity.uniformity"])

t = 2.0
weight = 0.1

model = dict(terms=[dict(type="Uniformity", t=t, weight=weight)])
