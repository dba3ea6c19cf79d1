"""CO2 on the demo scenes: minutes on two CPU cores, to see everything work.

`make demo` draws the scenes into data/demo or DEMO_ROOT.
Differs from `mocov2_r18_demo.py` by the term and by a last stage of the usual stride,
which is faster.
"""

_base_ = "../mocov2/mocov2_r18_demo.py"

alpha = 0.3  # weight of the consistency term
tau_con = 0.05
strides = (1, 2, 2, 2)  # of the four stages

model = dict(type="CO2", consistency=dict(temperature=tau_con, weight=alpha))
